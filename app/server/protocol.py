"""HTTP/1.1 that waits for nobody: heads are small and come within seconds, or the line is cut."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["MOST_HEAD_BYTES", "BoundedProtocol"]

MOST_HEAD_BYTES: Final = 64 * 2**10
_HEAD_SECONDS: Final = 10.0


class BoundedProtocol(H11Protocol):
    """Closes a new connection whose first head is not whole after ten seconds.

    Between requests uvicorn's own keep-alive timeout does the same.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._cut)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Take what came; once there is a whole head the time is no longer counted."""
        super().handle_events()
        if self.cycle is not None:
            self._stop_waiting()

    def _cut(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
