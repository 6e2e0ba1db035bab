"""Where requests that solve wait for a thread: a pool of their own, which nothing else waits in.

Renewing a lease or looking at a job takes milliseconds and must not stand behind a solver. The
searches themselves run in processes of low priority, while their threads wait. Each key may have a
few requests here at once; the rest are told to come back.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from bitbudget.app.http.errors import QuotaExceededError, UnavailableError
from bitbudget.app.measurements.solver_process import ask_a_process
from bitbudget.app.measurements.solving import limited

__all__ = ["SolverPool"]

_WATCH_SECONDS: Final = 0.2
Result = TypeVar("Result")


class SolverPool:
    """`threads` requests are solved at once, `per_key` of one key; no solver has more seconds.

    result = await pool.run(request, principal.owner, lambda: measurements.allocate(...))
    """

    def __init__(self, threads: int, per_key: int, waiting: int, most_seconds: float) -> None:
        self._threads, self._per_key = threads, per_key
        self._waiting = waiting
        self._most_seconds = most_seconds
        self._all: CapacityLimiter | None = None
        self._keys: dict[str, CapacityLimiter] = {}
        self._open: Counter[str] = Counter()

    async def run(self, request: Request, key: str, work: Callable[[], Result]) -> Result:
        """Return what `work` does in a thread of the pool; it stops when the client is gone.

        QuotaExceededError where the key has too many requests here already.
        """
        gone = threading.Event()

        def begun() -> Result:
            if gone.is_set():  # while it waited
                raise UnavailableError(what="client")
            return work()

        with self._place(key) as limiter:
            watching = asyncio.create_task(_watch(request, gone))
            try:
                async with limiter:
                    with limited(self._most_seconds, gone.is_set, ask_a_process):
                        return await to_thread.run_sync(begun, limiter=self._limiter())
            finally:
                watching.cancel()

    @contextmanager
    def _place(self, key: str) -> Iterator[CapacityLimiter]:
        if self._open[key] >= self._waiting:
            raise QuotaExceededError(what="Answers being solved for this key", limit=self._waiting)
        self._open[key] += 1
        limiter = self._keys.setdefault(key, CapacityLimiter(self._per_key if key else 10**6))
        try:
            yield limiter
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key], self._keys[key]

    def _limiter(self) -> CapacityLimiter:
        if self._all is None:  # it belongs to the event loop
            self._all = CapacityLimiter(self._threads)
        return self._all


async def _watch(request: Request, gone: threading.Event) -> None:
    while True:
        if await request.is_disconnected():
            gone.set()
            return
        await anyio.sleep(_WATCH_SECONDS)
