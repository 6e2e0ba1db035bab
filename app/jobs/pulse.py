"""Wakes event streams when something happened to their job, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio
from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database
from app.jobs import repository

__all__ = ["Listener", "Pulse"]

_WINDOW: Final = 1000
"""On PostgreSQL a lower id may become visible after a higher one: so many are looked at again."""


class Listener:
    """One open stream."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Let the stream look."""
        self._woken.set()

    def hold(self) -> None:
        """Notice what happens from now on."""
        self._woken.clear()

    async def wait(self, seconds: float) -> None:
        """Return when there may be new events since `hold`, after `seconds` at the latest."""
        with anyio.move_on_after(seconds):
            await self._woken.wait()


class Pulse:
    """One look at the newest events for all streams of this process; lives on the event loop."""

    def __init__(self, database: Database, poll_seconds: float) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._listeners: set[Listener] = set()
        self._seen: frozenset[int] = frozenset()
        self.is_stopped = False

    @property
    def listeners(self) -> int:
        """How many streams are open."""
        return len(self._listeners)

    @contextmanager
    def listen(self, job_id: str) -> Iterator[Listener]:
        """Give a listener for as long as a stream is open."""
        listener = Listener(job_id)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def stop(self) -> None:
        """End every stream: the server is going away."""
        self.is_stopped = True
        for listener in self._listeners:
            listener.wake()

    async def run(self) -> None:
        """Look for new events until cancelled."""
        while True:
            await anyio.sleep(self._poll_seconds)
            if not self._listeners:
                continue
            try:
                recent = await to_thread.run_sync(self._recent)
            except SQLAlchemyError:  # the streams themselves report it
                continue
            jobs = {job_id for id_, job_id in recent.items() if id_ not in self._seen}
            self._seen = frozenset(recent)
            for listener in self._listeners:
                if listener.job_id in jobs:
                    listener.wake()

    def _recent(self) -> dict[int, str]:
        newest = max(self._seen, default=0)
        with self._database.read() as session:
            return repository.jobs_of_events(session, newest - _WINDOW)
