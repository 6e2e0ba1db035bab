"""The table of follow-ups: at most one of each kind for a job."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from pydantic import JsonValue
from sqlalchemy.orm import Mapped, mapped_column

from bitbudget.app.followups.schemas import FollowupKind
from bitbudget.app.storage.schema import Base, Moment, one_of

__all__ = ["FollowupRow"]


class FollowupRow(Base):
    """The newest follow-up of a kind; `worker_id` is that of the worker that does it.

    An open one counts as lost after `alive_until`.
    """

    __tablename__ = "followups"

    id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(sa.String(16))
    asked: Mapped[dict[str, JsonValue]] = mapped_column(sa.JSON)
    worker_id: Mapped[str | None] = mapped_column(sa.ForeignKey("workers.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(Moment)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    alive_until: Mapped[datetime] = mapped_column(Moment)
    ended_at: Mapped[datetime | None] = mapped_column(Moment)
    result: Mapped[dict[str, JsonValue] | None] = mapped_column(sa.JSON(none_as_null=True))
    problem: Mapped[dict[str, JsonValue] | None] = mapped_column(sa.JSON(none_as_null=True))

    __table_args__ = (
        one_of("kind", FollowupKind),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (result IS NULL AND problem IS NULL)", name="end_has_outcome"
        ),
        sa.UniqueConstraint("job_id", "kind"),
        sa.Index("ix_followups_ended_at", "ended_at"),
    )
