"""Queries on follow-ups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.followups.schemas import FollowupKind
from bitbudget.app.followups.tables import FollowupRow
from bitbudget.app.jobs.tables import JobRow
from bitbudget.app.storage.ids import is_id
from bitbudget.app.workers.tables import WorkerRow

__all__ = ["count_open", "lock", "next_for", "of_job", "of_kind"]


def lock(session: Session, followup_id: str) -> FollowupRow:
    """Return a follow-up, locked until the transaction ends; NotFoundError when there is none."""
    query = sa.select(FollowupRow).where(FollowupRow.id == followup_id).with_for_update()
    row = session.scalars(query).one_or_none() if is_id(followup_id) else None
    if row is None:
        raise NotFoundError(what="follow-up", name=followup_id)
    return row


def of_job(session: Session, job_id: str) -> Sequence[FollowupRow]:
    """Return the newest follow-up of each kind."""
    query = sa.select(FollowupRow).where(FollowupRow.job_id == job_id).order_by(FollowupRow.kind)
    return session.scalars(query).all()


def of_kind(session: Session, job_id: str, kind: FollowupKind) -> FollowupRow | None:
    """Return a job's follow-up of one kind."""
    query = sa.select(FollowupRow).where(FollowupRow.job_id == job_id, FollowupRow.kind == kind)
    return session.scalars(query).one_or_none()


def count_open(session: Session, owner: str, now: datetime) -> int:
    """Return how many follow-ups on this owner's jobs are queued or running."""
    query = (
        sa.select(sa.func.count())
        .select_from(FollowupRow)
        .join(JobRow, JobRow.id == FollowupRow.job_id)
        .where(JobRow.owner == owner, FollowupRow.ended_at.is_(None))
        .where(FollowupRow.alive_until >= now)
    )
    return session.execute(query).scalar_one()


def next_for(session: Session, worker: WorkerRow, now: datetime) -> FollowupRow | None:
    """Return and lock the oldest follow-up on a job that this worker did.

    A worker that was started again has another id: it is known by its name and its key.
    """
    query = (
        sa.select(FollowupRow)
        .join(JobRow, JobRow.id == FollowupRow.job_id)
        .join(WorkerRow, WorkerRow.id == JobRow.worker_id)
        .where(WorkerRow.name == worker.name, WorkerRow.owner == worker.owner)
        .where(FollowupRow.started_at.is_(None), FollowupRow.alive_until >= now)
        .order_by(FollowupRow.id)
        .limit(1)
        .with_for_update(of=FollowupRow, skip_locked=True)
    )
    return session.scalars(query).one_or_none()
