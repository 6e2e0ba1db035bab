"""The table of artifacts: which stored bytes a job produced under which name."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from bitbudget.app.storage.schema import Base, Moment

__all__ = ["ArtifactRow"]


class ArtifactRow(Base):
    """One artifact of a job; the bytes lie in the store under their SHA-256."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(
        sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(sa.String(64))
    nbytes: Mapped[int] = mapped_column(sa.BigInteger)
    attempt: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(Moment)

    __table_args__ = (
        sa.CheckConstraint("nbytes >= 0", name="nbytes_positive"),
        sa.Index("ix_artifacts_sha256", "sha256"),
    )
