"""Requests that wait for a solver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import Request
from starlette.types import Message

from bitbudget.app.http.errors import UnavailableError
from bitbudget.app.measurements.pool import SolverPool


def request(looked: list[int] | None = None) -> Request:
    """Return a request; of one with a list the client is gone, and each look at it is noted."""

    async def receive() -> Message:
        if looked is None:
            await asyncio.sleep(60)
        else:
            looked.append(1)
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


@pytest.mark.parametrize("key", ["", "one of a user"])
def test_what_waits_is_never_begun_once_its_client_is_gone(key: str) -> None:
    free, occupied = threading.Event(), threading.Event()
    looked: list[int] = []
    begun: list[int] = []

    def occupying() -> bool:
        occupied.set()
        return free.wait()

    async def run() -> None:
        pool = SolverPool(threads=1, per_key=1, waiting=64, most_seconds=10.0)
        first = asyncio.create_task(pool.run(request(), key, occupying))
        await until(occupied.is_set)
        gone = [
            asyncio.create_task(pool.run(request(looked), key, lambda: begun.append(1)))
            for _ in range(3)
        ]
        await until(lambda: len(looked) == len(gone))
        free.set()
        assert await first
        ends = await asyncio.gather(*gone, return_exceptions=True)
        assert all(isinstance(end, UnavailableError) for end in ends)

    with ThreadPoolExecutor() as thread:  # this one may have a loop of another test's
        thread.submit(lambda: asyncio.run(run())).result()
    assert begun == []


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something, for half a minute at most."""
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - threads make it so
            await asyncio.sleep(0.01)
