"""Wakes event streams when something happened, however many there are."""

from __future__ import annotations

import asyncio
from typing import Final

from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database
from app.jobs import repository

__all__ = ["Pulse"]

_LONGEST_WAIT_SECONDS: Final = 1.0
"""On PostgreSQL a lower id may become visible after a higher one: look again by then."""


class Pulse:
    """One look at the newest event for all streams of this process; lives on the event loop."""

    def __init__(self, database: Database, poll_seconds: float) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._listeners = 0
        self._beat = asyncio.Event()
        self.is_stopped = False

    @property
    def listeners(self) -> int:
        """How many streams are open."""
        return self._listeners

    def joined(self) -> None:
        """A stream opened."""
        self._listeners += 1

    def left(self) -> None:
        """A stream closed."""
        self._listeners -= 1

    def stop(self) -> None:
        """End every stream: the server is going away."""
        self.is_stopped = True
        self._wake()

    async def wait(self, seconds: float) -> None:
        """Return when there may be new events, after `seconds` at the latest."""
        if self.is_stopped:
            return
        try:
            await asyncio.wait_for(self._beat.wait(), min(seconds, _LONGEST_WAIT_SECONDS))
        except TimeoutError:
            return

    async def run(self) -> None:
        """Look for new events until cancelled."""
        newest = 0
        while True:
            await asyncio.sleep(self._poll_seconds)
            if not self._listeners:
                continue
            try:
                found = await to_thread.run_sync(self._newest)
            except SQLAlchemyError:  # the streams themselves report it
                continue
            if found != newest:
                newest = found
                self._wake()

    def _newest(self) -> int:
        with self._database.read() as session:
            return repository.last_event_id(session)

    def _wake(self) -> None:
        self._beat.set()
        self._beat = asyncio.Event()
