"""Queries on leases."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.leases.tables import LeaseRow
from bitbudget.app.storage.ids import is_id

__all__ = ["end_within", "expired", "get", "lock", "open_jobs", "worker_ids"]


def get(session: Session, lease_id: str) -> LeaseRow:
    """Return a lease; NotFoundError when there is none."""
    lease = session.get(LeaseRow, lease_id) if is_id(lease_id) else None
    if lease is None:
        raise NotFoundError(what="lease", name=lease_id)
    return lease


def lock(session: Session, lease_id: str) -> LeaseRow:
    """Return a lease as it is now that its job is locked."""
    query = sa.select(LeaseRow).where(LeaseRow.id == lease_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def end_within(session: Session, until: datetime) -> int:
    """Let no open lease last beyond `until`; return how many would have."""
    query = sa.update(LeaseRow).where(LeaseRow.ended_at.is_(None), LeaseRow.lease_until > until)
    changed = session.execute(query.values(lease_until=until).returning(LeaseRow.id))
    return len(changed.all())


def expired(session: Session, now: datetime, limit: int = 100) -> list[LeaseRow]:
    """Return open leases whose time is over, oldest first."""
    query = (
        sa.select(LeaseRow)
        .where(LeaseRow.ended_at.is_(None), LeaseRow.lease_until < now)
        .order_by(LeaseRow.lease_until)
        .limit(limit)
    )
    return list(session.scalars(query))


def open_jobs(session: Session, worker_ids: Iterable[str]) -> dict[str, str]:
    """Return the job that each of these workers has now."""
    query = sa.select(LeaseRow.worker_id, LeaseRow.job_id).where(
        LeaseRow.ended_at.is_(None), LeaseRow.worker_id.in_(list(worker_ids))
    )
    return {row.worker_id: row.job_id for row in session.execute(query)}


def worker_ids() -> sa.SelectBase:
    """Return the query of the workers that ever held a lease."""
    return sa.select(LeaseRow.worker_id)
