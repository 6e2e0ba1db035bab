"""Polls of jobs: most find nothing new, so a job is rendered once and not once per poll."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final

from anyio import to_thread

from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.jobs import repository
from bitbudget.app.jobs.views import job_view
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import is_id

__all__ = ["JobPolls", "Rendered"]

_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class Rendered:
    """A job as JSON; `event_id` is the last event that it knows of."""

    event_id: int
    body: bytes
    etag: str


class JobPolls:
    """Every change of a job has an event: its newest one tells whether bytes are still good."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._rendered: OrderedDict[str, Rendered] = OrderedDict()

    async def get(self, job_id: str) -> Rendered:
        """Return a job as it is now; NotFoundError when there is none."""
        if not is_id(job_id):
            raise NotFoundError(what="job", name=job_id)
        newest = await self._database.glance(repository.NEWEST_EVENT, job_id=job_id)
        kept = self._rendered.get(job_id)
        if kept is not None and kept.event_id == newest:
            return kept
        return await to_thread.run_sync(self._render, job_id)

    def _render(self, job_id: str) -> Rendered:
        with self._database.read() as session:
            newest = session.execute(repository.NEWEST_EVENT, {"job_id": job_id}).scalar_one()
            job = job_view(session, repository.get(session, job_id))
        body = job.model_dump_json().encode()
        rendered = Rendered(newest, body, f'"{sha256_of(body)}"')
        with self._lock:
            self._rendered[job_id] = rendered
            self._rendered.move_to_end(job_id)
            if len(self._rendered) > _KEPT:
                self._rendered.popitem(last=False)
        return rendered
