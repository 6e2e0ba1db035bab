"""Requests that wait for a solver."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import Request
from starlette.types import Message

from bitbudget.app.http.errors import UnavailableError
from bitbudget.app.measurements.pool import SolverPool


def request(*, is_gone: bool) -> Request:
    async def receive() -> Message:
        if not is_gone:
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


@pytest.mark.parametrize("key", ["", "one of a user"])
def test_what_waits_is_never_begun_once_its_client_is_gone(key: str) -> None:
    free = threading.Event()
    begun: list[int] = []

    async def run() -> None:
        pool = SolverPool(threads=1, per_key=1, waiting=64, most_seconds=10.0)
        first = asyncio.create_task(pool.run(request(is_gone=False), key, free.wait))
        await asyncio.sleep(0.1)
        gone = [
            asyncio.create_task(pool.run(request(is_gone=True), key, lambda: begun.append(1)))
            for _ in range(3)
        ]
        await asyncio.sleep(0.5)
        free.set()
        assert await first
        ends = await asyncio.gather(*gone, return_exceptions=True)
        assert all(isinstance(end, UnavailableError) for end in ends)

    with ThreadPoolExecutor() as thread:  # this one may have a loop of another test's
        thread.submit(lambda: asyncio.run(run())).result()
    assert begun == []
