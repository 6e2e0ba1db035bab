"""The table of leases: at most one open lease per job, and every attempt has its own."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.orm import Mapped, mapped_column

from bitbudget.app.contract.leases import LeaseOutcome
from bitbudget.app.storage.schema import Base, Moment, one_of

__all__ = ["LeaseRow"]


class LeaseRow(Base):
    """A job in the hands of a worker for one attempt.

    `problem` says how a lost or failed attempt ended; `log_lines` of its log have been taken.
    """

    __tablename__ = "leases"

    id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    worker_id: Mapped[str] = mapped_column(sa.ForeignKey("workers.id"))
    token_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    claimed_at: Mapped[datetime] = mapped_column(Moment)
    lease_until: Mapped[datetime] = mapped_column(Moment)
    ended_at: Mapped[datetime | None] = mapped_column(Moment)
    outcome: Mapped[str | None] = mapped_column(sa.String(16))
    result_digest: Mapped[str | None] = mapped_column(sa.String(64))
    problem: Mapped[dict[str, JsonValue] | None] = mapped_column(sa.JSON(none_as_null=True))
    log_lines: Mapped[int] = mapped_column(default=0)

    __table_args__ = (
        one_of("outcome", LeaseOutcome),
        sa.CheckConstraint("attempt >= 1", name="attempt_positive"),
        sa.CheckConstraint("log_lines >= 0", name="log_lines_positive"),
        sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="end_has_time"),
        sa.UniqueConstraint("job_id", "attempt"),
        sa.Index(
            "uq_leases_open_job",
            "job_id",
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        sa.Index("ix_leases_lease_until", "lease_until"),
    )
