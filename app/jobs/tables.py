"""Tables of jobs: the invariants of a job's life are constraints here."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.orm import Mapped, mapped_column

from bitbudget.app.jobs.labels import LONGEST_TAG
from bitbudget.app.jobs.status import EventKind, JobStatus
from bitbudget.app.storage.schema import Base, Moment, one_of

__all__ = ["EventRow", "JobRow", "JobTagRow", "RevisionRow"]


class JobRow(Base):
    """One job; `attempt` counts leases taken, `strikes` the attempts that were lost.

    `revision` is the number of the answer that counts now.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    status: Mapped[str] = mapped_column(sa.String(16))
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    request: Mapped[dict[str, JsonValue]] = mapped_column(sa.JSON)
    model: Mapped[str] = mapped_column(sa.String(1024))
    attempt: Mapped[int] = mapped_column(default=0)
    strikes: Mapped[int] = mapped_column(default=0)
    worker_id: Mapped[str | None] = mapped_column(sa.ForeignKey("workers.id"))
    progress: Mapped[dict[str, JsonValue] | None] = mapped_column(sa.JSON(none_as_null=True))
    measurement_id: Mapped[str | None] = mapped_column(
        sa.ForeignKey("measurements.id", ondelete="SET NULL")
    )
    revision: Mapped[int | None]
    result: Mapped[dict[str, JsonValue] | None] = mapped_column(sa.JSON(none_as_null=True))
    problem: Mapped[dict[str, JsonValue] | None] = mapped_column(sa.JSON(none_as_null=True))
    note: Mapped[str] = mapped_column(sa.Text, default="")
    owner: Mapped[str] = mapped_column(sa.String(32), default="")
    idempotency_key: Mapped[str | None] = mapped_column(sa.String(255))
    request_digest: Mapped[str] = mapped_column(sa.String(64))
    created_at: Mapped[datetime] = mapped_column(Moment)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)

    __table_args__ = (
        one_of("status", JobStatus),
        sa.CheckConstraint("attempt >= 0 AND strikes >= 0", name="counts_positive"),
        sa.CheckConstraint("strikes <= attempt", name="strikes_within_attempts"),
        sa.CheckConstraint(
            "status <> 'running' OR worker_id IS NOT NULL", name="running_has_worker"
        ),
        sa.CheckConstraint(
            "(status IN ('queued', 'running')) = (finished_at IS NULL)", name="final_has_end"
        ),
        sa.CheckConstraint(
            "(status = 'failed') = (problem IS NOT NULL)", name="failed_has_problem"
        ),
        sa.UniqueConstraint("owner", "idempotency_key"),
        sa.Index("ix_jobs_status_id", "status", "id"),
        sa.Index("ix_jobs_queue", "status", "strikes", "id"),
    )


class JobTagRow(Base):
    """One tag of a job."""

    __tablename__ = "job_tags"

    job_id: Mapped[str] = mapped_column(
        sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    tag: Mapped[str] = mapped_column(sa.String(LONGEST_TAG), primary_key=True)

    __table_args__ = (sa.Index("ix_job_tags_tag_job_id", "tag", "job_id"),)


class RevisionRow(Base):
    """One answer of a job; its manifest lies in the store under `sha256`."""

    __tablename__ = "revisions"

    job_id: Mapped[str] = mapped_column(
        sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    answer: Mapped[dict[str, JsonValue]] = mapped_column(sa.JSON)

    __table_args__ = (
        sa.CheckConstraint("number >= 1", name="number_positive"),
        sa.UniqueConstraint("job_id", "sha256"),
        sa.Index("ix_revisions_sha256", "sha256"),
    )


class EventRow(Base):
    """One event of a job; its id is the `id:` of the event stream."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True
    )
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(sa.String(32))
    at: Mapped[datetime] = mapped_column(Moment)
    data: Mapped[dict[str, JsonValue]] = mapped_column(sa.JSON)

    __table_args__ = (
        one_of("kind", EventKind),
        sa.Index("ix_events_job_id_id", "job_id", "id"),
        {"sqlite_autoincrement": True},
    )
