"""Queries on workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.storage.ids import is_id
from bitbudget.app.workers.tables import WorkerRow

__all__ = ["by_id", "count_seen_since", "delete_idle_since", "get", "latest", "page"]


def get(session: Session, worker_id: str) -> WorkerRow:
    """Return a worker; NotFoundError when there is none."""
    row = session.get(WorkerRow, worker_id) if is_id(worker_id) else None
    if row is None:
        raise NotFoundError(what="worker", name=worker_id)
    return row


def latest(session: Session, worker: WorkerRow) -> WorkerRow:
    """Return the newest registration of a worker, which is known by its name and its key."""
    query = (
        sa.select(WorkerRow)
        .where(WorkerRow.name == worker.name, WorkerRow.owner == worker.owner)
        .order_by(WorkerRow.id.desc())
        .limit(1)
    )
    return session.scalars(query).one()


def by_id(session: Session, worker_ids: Iterable[str]) -> dict[str, WorkerRow]:
    """Return the workers with these ids."""
    wanted = list(worker_ids)
    if not wanted:
        return {}
    query = sa.select(WorkerRow).where(WorkerRow.id.in_(wanted))
    return {row.id: row for row in session.scalars(query)}


def page(session: Session, before: str | None, limit: int) -> Sequence[WorkerRow]:
    """Return up to `limit` + 1 workers, newest first."""
    query = sa.select(WorkerRow).order_by(WorkerRow.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(WorkerRow.id < before)
    return session.scalars(query).all()


def count_seen_since(session: Session, moment: datetime) -> int:
    """Return how many workers have called since `moment`."""
    query = sa.select(sa.func.count()).where(WorkerRow.seen_at >= moment)
    return session.execute(query).scalar_one()


def delete_idle_since(session: Session, moment: datetime, kept: Sequence[sa.SelectBase]) -> int:
    """Remove workers not seen since `moment` and not among the ids in `kept`; return how many."""
    query = sa.delete(WorkerRow).where(
        WorkerRow.seen_at < moment, *(WorkerRow.id.not_in(ids) for ids in kept)
    )
    return len(session.execute(query.returning(WorkerRow.id)).all())
