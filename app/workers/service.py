"""Workers register; people look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from bitbudget.app.auth.principal import Principal
from bitbudget.app.auth.tokens import Token, TokenKind, hash_secret, new_secret
from bitbudget.app.contract.leases import Capabilities, WorkerRegistration, WorkerWelcome
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.app.http.pages import Page, cut_page, decode_cursor
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import Clock, new_id
from bitbudget.app.storage.stored import read_stored
from bitbudget.app.workers import repository
from bitbudget.app.workers.intervals import Intervals
from bitbudget.app.workers.schemas import Worker
from bitbudget.app.workers.tables import WorkerRow

__all__ = ["OpenJobs", "WorkerService"]


OpenJobs = Callable[[Session, Iterable[str]], dict[str, str]]
"""Returns the job that each of these workers has now, by the worker's id."""

_LOOKED_AT: Final = 20
"""Newest workers among which one with a known speed is looked for."""
_UNREADABLE: Final = Capabilities(
    chip="unreadable", memory_bytes=0, backend="cpu", mlx_version="unreadable"
)


@dataclass(frozen=True, slots=True)
class WorkerService:
    """The workers this server knows."""

    database: Database
    clock: Clock
    intervals: Intervals
    open_jobs: OpenJobs

    def register(self, registration: WorkerRegistration, principal: Principal) -> WorkerWelcome:
        """Take in a worker; its token is told this once."""
        now = self.clock()
        secret = new_secret()
        row = WorkerRow(
            id=new_id(now),
            name=registration.name,
            capabilities=registration.capabilities.model_dump(mode="json"),
            token_hash=hash_secret(secret),
            owner=principal.owner,
            registered_at=now,
            seen_at=now,
        )
        with self.database.write() as session:
            session.add(row)
        return WorkerWelcome(
            worker_id=row.id,
            token=str(Token(TokenKind.WORKER, row.id, secret)),
            lease_seconds=self.intervals.lease_seconds,
            renew_seconds=self.intervals.renew_seconds,
            poll_seconds=self.intervals.poll_seconds,
        )

    def page(self, cursor: str | None, limit: int) -> Page[Worker]:
        """Return a page of workers, newest first."""
        key = decode_cursor(cursor, (str,))
        with self.database.read() as session:
            rows = repository.page(session, None if key is None else str(key[0]), limit)
            kept, following = cut_page(rows, limit, lambda row: [row.id])
            open_jobs = self.open_jobs(session, [row.id for row in kept])
        since = self.clock() - timedelta(seconds=self.intervals.lease_seconds)
        items = [_view(row, open_jobs.get(row.id), since) for row in kept]
        return Page[Worker](items=items, next_cursor=following)

    def newest_speed(self) -> tuple[str, MachineSpeed] | None:
        """Return the newest worker whose machine's speed is known, with that speed."""
        with self.database.read() as session:
            rows = repository.page(session, None, _LOOKED_AT)
        for row in rows:
            found = read_stored(Capabilities, row.capabilities, f"worker {row.id}")
            if found is not None and found.speed is not None:
                return row.name, found.speed
        return None


def _view(row: WorkerRow, job_id: str | None, since: datetime) -> Worker:
    return Worker(
        id=row.id,
        name=row.name,
        capabilities=read_stored(Capabilities, row.capabilities, f"worker {row.id}") or _UNREADABLE,
        registered_at=row.registered_at,
        seen_at=row.seen_at,
        online=row.seen_at >= since,
        job_id=job_id,
    )
