"""The table of workers that registered."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.storage.schema import Base, Moment

__all__ = ["WorkerRow"]


class WorkerRow(Base):
    """One worker and what its machine can do."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(128))
    capabilities: Mapped[JsonObject] = mapped_column(sa.JSON)
    token_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    owner: Mapped[str] = mapped_column(sa.String(32), default="")
    registered_at: Mapped[datetime] = mapped_column(Moment)
    seen_at: Mapped[datetime] = mapped_column(Moment)
