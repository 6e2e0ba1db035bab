"""The clients of `load.py`: many connections of one lean process, whose own work is not measured.

    python benchmarks/load_clients.py < plan.json > samples.json

A general HTTP client needs more time for a request than the server does, and its pool looks through
all connections for each. Here a poll is one write and, for one answer, one callback.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_GOOD: Final = b"HTTP/1.1 200"
_TIMEOUT_SECONDS: Final = 30.0
_READY_SECONDS: Final = 60.0


@dataclass
class Plan:
    """What to do: `alone` polls one after the other, then all clients and streams at once.

    The first half of the lone polls follow at once, the others after `pause` seconds each, as those
    of a client do: a processor that rested answers later.
    """

    host: str
    port: int
    paths: list[str]
    alone: int
    pause: float
    clients: int
    streams: int
    seconds: float
    interval: float
    token: str

    def request(self, path: str) -> bytes:
        """Return a request as it goes over the line."""
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.token}"
        return f"{head}\r\n\r\n".encode()


@dataclass
class Samples:
    """What came of it; times in milliseconds, one for each poll."""

    at_once: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    errors: int = 0
    streams: int = 0
    stream_events: int = 0
    seconds: float = 0.0


class Poller(asyncio.Protocol):
    """One kept-open connection that asks one thing at a time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        self._whole: asyncio.Future[float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to the server."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Note the time at which an answer is whole."""
        self._answer += data
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or length is None or len(body) < int(length[1]):
            return
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(time.perf_counter())

    def connection_lost(self, error: Exception | None) -> None:
        """Fail what was asked."""
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(error or ConnectionResetError())

    async def get(self, path: str) -> float:
        """Return the milliseconds that an answer took; OSError unless it is a good one."""
        if self._transport is None:
            raise ConnectionResetError
        self._answer = b""
        self._whole = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._transport.write(self._plan.request(path))
        ended = await asyncio.wait_for(self._whole, _TIMEOUT_SECONDS)
        if not self._answer.startswith(_GOOD):
            raise OSError(self._answer[:200])
        return (ended - began) * 1000


async def connect(plan: Plan) -> Poller:
    """Open one connection."""
    _, poller = await asyncio.get_running_loop().create_connection(
        lambda: Poller(plan), plan.host, plan.port
    )
    return poller


async def poll(plan: Plan, ends_at: float, samples: Samples) -> None:
    """One client that looks at a job every `interval` seconds."""
    poller = await connect(plan)
    await asyncio.sleep(random.random() * plan.interval)  # noqa: S311 - spreads the clients
    while time.monotonic() < ends_at:
        try:
            samples.loaded.append(await poller.get(random.choice(plan.paths)))  # noqa: S311 - any
        except OSError:  # a timeout is one, too
            samples.errors += 1
            with suppress(OSError):
                poller = await connect(plan)
        await asyncio.sleep(plan.interval)


async def listen(plan: Plan, path: str, ready: asyncio.Event, samples: Samples) -> None:
    """Count the events of one stream until it ends or is cancelled."""
    reader, writer = await asyncio.open_connection(plan.host, plan.port)
    writer.write(plan.request(f"{path}/events"))
    async for line in reader:
        if line.startswith(b"data:"):
            samples.stream_events += 1
            ready.set()


async def carry_out(plan: Plan) -> Samples:
    """Measure polls without load, then with all clients and streams."""
    samples = Samples()
    poller = await connect(plan)
    samples.at_once = [await poller.get(plan.paths[0]) for _ in range(plan.alone // 2)]
    for _ in range(plan.alone - plan.alone // 2):
        await asyncio.sleep(plan.pause)
        samples.alone.append(await poller.get(plan.paths[0]))
    ready = [asyncio.Event() for _ in range(plan.streams)]
    streams = [
        asyncio.create_task(listen(plan, plan.paths[n % len(plan.paths)], event, samples))
        for n, event in enumerate(ready)
    ]
    everyone: list[Awaitable[Any]] = [event.wait() for event in ready]
    await asyncio.wait_for(asyncio.gather(*everyone), _READY_SECONDS)
    samples.streams = len(streams)
    began = time.monotonic()
    ends_at = began + plan.seconds
    await asyncio.gather(*(poll(plan, ends_at, samples) for _ in range(plan.clients)))
    samples.seconds = time.monotonic() - began
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return samples


def main() -> None:
    """Do what the plan on standard input says."""
    samples = asyncio.run(carry_out(Plan(**json.load(sys.stdin))))
    json.dump(vars(samples), sys.stdout)


if __name__ == "__main__":
    main()
