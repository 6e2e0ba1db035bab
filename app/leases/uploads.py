"""Bodies of artifacts on their way: on disk as they come, then read one at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

__all__ = ["Uploads"]

_IN_MEMORY_BYTES: Final = 1 << 16
Result = TypeVar("Result")


class Uploads:
    """A body waits in a file without a name, so that many at once take no memory.

    What a document says takes a multiple of its length to find out: one thread does it, and other
    requests do not wait for it.

        await uploads.run(request, lambda data: leases.put_artifact(..., data, expected))
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reader: CapacityLimiter | None = None

    async def run(self, request: Request, work: Callable[[bytes], Result]) -> Result:
        """Receive the body of `request` and return what `work` makes of it."""
        if self._reader is None:  # it belongs to the event loop
            self._reader = CapacityLimiter(1)
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(self._folder)) as body:
            async for chunk in request.stream():
                body.write(chunk)
            return await to_thread.run_sync(lambda: work(_whole(body)), limiter=self._reader)


def _whole(body: IO[bytes]) -> bytes:
    body.seek(0)
    return body.read()
