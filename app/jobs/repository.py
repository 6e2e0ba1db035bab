"""Queries on jobs and their events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.jobs.status import OPEN_STATUSES, EventKind, JobStatus
from bitbudget.app.jobs.tables import EventRow, JobRow, JobTagRow, RevisionRow
from bitbudget.app.storage.ids import is_id

__all__ = [
    "NEWEST_EVENT",
    "NEWS",
    "Wanted",
    "by_idempotency_key",
    "count_by_status",
    "count_open",
    "delete_finished_before",
    "delete_labelled",
    "delete_progress",
    "events_after",
    "get",
    "is_answer",
    "jobs_of_events",
    "lock",
    "newest_id",
    "next_queued",
    "notes",
    "page",
    "referenced_digests",
    "revision",
    "revisions",
    "set_tags",
    "tags",
    "worker_ids",
]

NEWEST_EVENT: Final = sa.text("SELECT max(id) FROM events WHERE job_id = :job_id")
"""The id of a job's newest event, null when it has none."""
NEWS: Final = sa.text("SELECT max(id) || ':' || count(*) FROM events WHERE id > :after")
"""A text that differs once there are other events after `after`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs a list is of: those in one state, of one model, with one tag."""

    status: JobStatus | None = None
    model: str | None = None
    tag: str | None = None


def get(session: Session, job_id: str) -> JobRow:
    """Return a job; NotFoundError when there is none."""
    job = session.get(JobRow, job_id) if is_id(job_id) else None
    if job is None:
        raise NotFoundError(what="job", name=job_id)
    return job


def lock(session: Session, job_id: str) -> JobRow:
    """Return a job that no other transaction can change before this one ends."""
    query = sa.select(JobRow).where(JobRow.id == job_id).with_for_update()
    job = session.scalars(query).one_or_none() if is_id(job_id) else None
    if job is None:
        raise NotFoundError(what="job", name=job_id)
    return job


def newest_id(session: Session) -> str | None:
    """Return the id of the job that was submitted last, None when there is none."""
    return session.scalar(sa.select(sa.func.max(JobRow.id)))


def next_queued(session: Session) -> JobRow | None:
    """Return and lock the oldest queued job that no one else is just taking.

    Those that lost attempts come after those that lost fewer: they hold up no other.
    """
    query = (
        sa.select(JobRow)
        .where(JobRow.status == JobStatus.QUEUED)
        .order_by(JobRow.strikes, JobRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return session.scalars(query).one_or_none()


def by_idempotency_key(session: Session, owner: str, key: str) -> JobRow | None:
    """Return the job that this owner submitted under `key`."""
    query = sa.select(JobRow).where(JobRow.owner == owner, JobRow.idempotency_key == key)
    return session.scalars(query).one_or_none()


def page(session: Session, *, before: str | None, limit: int, wanted: Wanted) -> Sequence[JobRow]:
    """Return up to `limit` + 1 wanted jobs, newest first, older than the one called `before`."""
    query = sa.select(JobRow).order_by(JobRow.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(JobRow.id < before)
    if wanted.status is not None:
        query = query.where(JobRow.status == wanted.status)
    if wanted.model is not None:
        query = query.where(JobRow.model == wanted.model)
    if wanted.tag is not None:
        tagged = sa.select(JobTagRow.job_id).where(JobTagRow.tag == wanted.tag)
        query = query.where(JobRow.id.in_(tagged))
    return session.scalars(query).all()


def count_open(session: Session, owner: str) -> int:
    """Return how many jobs of this owner are queued or running."""
    query = sa.select(sa.func.count()).where(
        JobRow.owner == owner, JobRow.status.in_(OPEN_STATUSES)
    )
    return session.execute(query).scalar_one()


def count_by_status(session: Session) -> dict[JobStatus, int]:
    """Return how many jobs there are in each status."""
    query = sa.select(JobRow.status, sa.func.count()).group_by(JobRow.status)
    counts = dict.fromkeys(JobStatus, 0)
    counts.update({JobStatus(status): count for status, count in session.execute(query)})
    return counts


def revisions(session: Session, job_ids: Iterable[str]) -> dict[str, list[RevisionRow]]:
    """Return the answers of each of these jobs, in the order of their numbers."""
    query = sa.select(RevisionRow).where(RevisionRow.job_id.in_(list(job_ids)))
    found: dict[str, list[RevisionRow]] = {}
    for row in session.scalars(query.order_by(RevisionRow.number)):
        found.setdefault(row.job_id, []).append(row)
    return found


def tags(session: Session, job_ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the tags of each of these jobs that has any, sorted."""
    query = sa.select(JobTagRow).where(JobTagRow.job_id.in_(list(job_ids)))
    found: dict[str, list[str]] = {}
    for row in session.scalars(query):
        found.setdefault(row.job_id, []).append(row.tag)
    return {job_id: sorted(each) for job_id, each in found.items()}


def set_tags(session: Session, job_id: str, wanted: Iterable[str]) -> None:
    """Give a job these tags in place of those that it has."""
    session.execute(sa.delete(JobTagRow).where(JobTagRow.job_id == job_id))
    session.add_all(JobTagRow(job_id=job_id, tag=tag) for tag in wanted)
    session.flush()


def revision(session: Session, job: JobRow, number: int | None = None) -> RevisionRow | None:
    """Return an answer of a job by its number, by default the one that counts now."""
    wanted = job.revision if number is None else number
    return None if wanted is None else session.get(RevisionRow, (job.id, wanted))


def is_answer(session: Session, digest: str) -> bool:
    """Whether some job came to the manifest with this digest."""
    query = sa.select(RevisionRow.job_id).where(RevisionRow.sha256 == digest).limit(1)
    return session.scalars(query).first() is not None


def referenced_digests(session: Session) -> set[str]:
    """Return the digests of the manifests that some job came to."""
    return set(session.scalars(sa.select(RevisionRow.sha256).distinct()))


def events_after(session: Session, job_id: str, after: int, limit: int = 500) -> list[EventRow]:
    """Return the next events of a job, in order."""
    query = (
        sa.select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.id > after)
        .order_by(EventRow.id)
        .limit(limit)
    )
    return list(session.scalars(query))


def notes(session: Session, job_id: str, limit: int = 50) -> list[EventRow]:
    """Return the newest log lines and lost attempts of a job, in order."""
    query = (
        sa.select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.kind.in_((EventKind.LOG, EventKind.REQUEUED)))
        .order_by(EventRow.id.desc())
        .limit(limit)
    )
    return list(session.scalars(query))[::-1]


def jobs_of_events(session: Session, after: int, limit: int = 10_000) -> dict[int, str]:
    """Return the jobs of the newest events, by the events' ids."""
    query = sa.select(EventRow.id, EventRow.job_id).where(EventRow.id > after)
    rows = session.execute(query.order_by(EventRow.id.desc()).limit(limit))
    return {row.id: row.job_id for row in rows}


def delete_progress(session: Session, job_id: str, step: Step) -> None:
    """Remove what a job told of its progress in a step, and what cannot be read of its progress.

    There is one event a step. They are read here: SQLite fails a query that looks into bad JSON.
    """
    told = sa.select(EventRow.id, EventRow.data).where(
        EventRow.job_id == job_id, EventRow.kind == EventKind.PROGRESS
    )
    over = [id_ for id_, data in session.execute(told) if _step(data) in {step.value, None}]
    session.execute(sa.delete(EventRow).where(EventRow.id.in_(over)))


def _step(data: object) -> object:
    return data.get("step") if isinstance(data, dict) else None


def delete_labelled(session: Session, job_id: str) -> None:
    """Remove the events that told of a job's earlier labels."""
    session.execute(
        sa.delete(EventRow).where(EventRow.job_id == job_id, EventRow.kind == EventKind.LABELLED)
    )


def delete_finished_before(session: Session, moment: datetime) -> int:
    """Remove jobs that ended before `moment`, with all that hangs on them; return how many."""
    query = sa.delete(JobRow).where(JobRow.finished_at < moment)
    return len(session.execute(query.returning(JobRow.id)).all())


def worker_ids() -> sa.SelectBase:
    """Return the query of the workers that have, or last had, a job."""
    return sa.select(JobRow.worker_id).where(JobRow.worker_id.is_not(None))
