"""Tables of models: what their weights are, and which names resolved to them last."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.storage.schema import Base, Moment

__all__ = ["ModelNameRow", "ModelRow"]


class ModelRow(Base):
    """One set of weights, known by the digest over its files, with its inventory."""

    __tablename__ = "models"

    digest: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(1024))
    revision: Mapped[str] = mapped_column(sa.String(255))
    model_type: Mapped[str] = mapped_column(sa.String(128))
    weights: Mapped[int] = mapped_column(sa.BigInteger)
    inventory: Mapped[JsonObject] = mapped_column(sa.JSON)
    created_at: Mapped[datetime] = mapped_column(Moment)

    __table_args__ = (sa.CheckConstraint("weights >= 0", name="weights_positive"),)


class ModelNameRow(Base):
    """What a requested name, `org/name@revision` or a folder, resolved to most recently."""

    __tablename__ = "model_names"

    name: Mapped[str] = mapped_column(sa.String(1024), primary_key=True)
    digest: Mapped[str] = mapped_column(sa.ForeignKey("models.digest", ondelete="CASCADE"))
    resolved_at: Mapped[datetime] = mapped_column(Moment)
