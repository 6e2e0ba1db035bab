"""Tables of measurements: the head of each, and one row per tensor with its curve."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.storage.schema import Base, Moment

__all__ = ["MeasurementNameRow", "MeasurementRow", "TensorRow"]


class MeasurementRow(Base):
    """A measurement without its curves; `id` is the measurement's key.

    `worker_id` is the worker that made it, `owner` the key which that worker registered with; of
    an imported one nothing, and the key that imported it.
    """

    __tablename__ = "measurements"

    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    model_digest: Mapped[str] = mapped_column(sa.ForeignKey("models.digest"))
    encoder: Mapped[str] = mapped_column(sa.String(16))
    sensitivity: Mapped[str] = mapped_column(sa.String(16))
    rotation: Mapped[str] = mapped_column(sa.String(16))
    text: Mapped[str] = mapped_column(sa.String(64))
    head: Mapped[JsonObject] = mapped_column(sa.JSON)
    worker_id: Mapped[str] = mapped_column(sa.String(32), default="")
    owner: Mapped[str] = mapped_column(sa.String(32), default="")
    created_at: Mapped[datetime] = mapped_column(Moment)

    __table_args__ = (sa.Index("ix_measurements_model_digest", "model_digest"),)


class TensorRow(Base):
    """One module of a measurement with its rate-distortion points and features."""

    __tablename__ = "tensors"

    measurement_id: Mapped[str] = mapped_column(
        sa.ForeignKey("measurements.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    path: Mapped[str] = mapped_column(sa.String(512))
    role: Mapped[str] = mapped_column(sa.String(128))
    layer: Mapped[int | None]
    weights: Mapped[int] = mapped_column(sa.BigInteger)
    alpha_nats: Mapped[float] = mapped_column(sa.Double)
    digest: Mapped[str] = mapped_column(sa.String(64))
    points: Mapped[list[JsonObject]] = mapped_column(sa.JSON)
    features: Mapped[dict[str, float]] = mapped_column(sa.JSON)

    __table_args__ = (
        sa.UniqueConstraint("measurement_id", "path"),
        sa.CheckConstraint("alpha_nats >= 0", name="alpha_positive"),
        sa.CheckConstraint("weights > 0", name="weights_positive"),
    )


class MeasurementNameRow(Base):
    """Which measurement a request for `model` measured in this way was answered with last."""

    __tablename__ = "measurement_names"

    request_digest: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    measurement_id: Mapped[str] = mapped_column(
        sa.ForeignKey("measurements.id", ondelete="CASCADE")
    )
    answered_at: Mapped[datetime] = mapped_column(Moment)
