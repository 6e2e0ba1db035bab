"""Wakes event streams when something happened to their job, however many there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio
from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

from bitbudget.app.auth.repository import REVOKED
from bitbudget.app.jobs import repository
from bitbudget.app.storage.database import Database

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

    async def wait(self, seconds: float) -> bool:
        """Return whether there may be new events since `hold`, after `seconds` at the latest."""
        with anyio.move_on_after(seconds):
            await self._woken.wait()
        return self._woken.is_set()


class Pulse:
    """One look at the newest events for all streams of this process; lives on the event loop."""

    def __init__(self, database: Database, poll_seconds: float) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._listeners: set[Listener] = set()
        self._seen: frozenset[int] = frozenset()
        self._sign: str | None = None
        self._revoked: int | None = None
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
            with contextlib.suppress(SQLAlchemyError):  # the streams themselves report it
                await self._look()

    async def _look(self) -> None:
        """Wake the streams of jobs with new events; to see that there are none costs little."""
        await self._look_at_keys()
        sign = await self._database.glance(repository.NEWS, after=self._floor)
        if sign == self._sign:
            return
        recent = await to_thread.run_sync(self._recent)
        jobs = {job_id for id_, job_id in recent.items() if id_ not in self._seen}
        self._seen = frozenset(recent)
        near = [id_ for id_ in recent if id_ > self._floor]
        self._sign = f"{max(near)}:{len(near)}" if near else None
        for listener in self._listeners:
            if listener.job_id in jobs:
                listener.wake()

    async def _look_at_keys(self) -> None:
        """Wake every stream when a key was revoked: one of them may be its own."""
        revoked = await self._database.glance(REVOKED)
        if revoked != self._revoked:
            self._revoked = revoked
            for listener in self._listeners:
                listener.wake()

    @property
    def _floor(self) -> int:
        return max(self._seen, default=0) - _WINDOW

    def _recent(self) -> dict[int, str]:
        with self._database.read() as session:
            return repository.jobs_of_events(session, self._floor)
