"""Queries on measurements and their tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.effort import efforts_up_to
from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import JobRequest, Rotation
from bitbudget.app.core.rotation_choice import auto_rotations
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.http.pages import Key
from bitbudget.app.measurements.rows import PreparedMeasurement, measurement_from_rows
from bitbudget.app.measurements.schemas import Order, TensorSort
from bitbudget.app.measurements.tables import MeasurementNameRow, MeasurementRow, TensorRow

__all__ = [
    "Maker",
    "find",
    "find_for",
    "get",
    "load",
    "name_digest",
    "of_models",
    "read",
    "remember",
    "save",
    "tensor_page",
]


def name_digest(request: JobRequest) -> str:
    """Return the digest of what decides which measurement answers a request."""
    parts = request.model_dump(
        mode="json", include={"model", "effort", "encoder", "sensitivity", "rotation", "text"}
    )
    parts["own_formats"] = request.runtime is Runtime.BITBUDGET
    return sha256_of(canonical_json(parts))


@dataclass(frozen=True, slots=True)
class Maker:
    """The worker that made a measurement, and the key it registered with.

    No worker (an empty id) made one that was imported, by the owner of the key.
    """

    worker_id: str
    owner: str


def save(session: Session, prepared: PreparedMeasurement, maker: Maker, now: datetime) -> bool:
    """Store a measurement; return False where another worker's, of other curves, stays.

    What was stored first stays: its own worker alone replaces it, and any worker one that was
    imported or cannot be read. Where curves are the same, workers of the same key replace its
    calibration, which grows with every finished checkpoint.
    """
    stored = session.get(MeasurementRow, prepared.key)
    if stored is None:
        stored = prepared.row(now)
        session.add(stored)
    elif stored.worker_id not in {maker.worker_id, ""}:
        found = read(session, stored)
        if found is not None:
            is_same = _what_was_measured(found) == _what_was_measured(prepared.measurement)
            if is_same and stored.owner == maker.owner:
                stored.head = prepared.head
            return is_same
    stored.head = prepared.head
    stored.worker_id, stored.owner = maker.worker_id, maker.owner
    session.flush()
    session.execute(sa.delete(TensorRow).where(TensorRow.measurement_id == prepared.key))
    if prepared.tensors:
        session.execute(sa.insert(TensorRow), prepared.tensors)
    return True


def _what_was_measured(measurement: Measurement) -> tuple[object, ...]:
    """Return inventory and curves, without the features that tell people more of them."""
    curves = [(c.path, c.alpha_nats, c.points, c.digest) for c in measurement.curves]
    return measurement.inventory, curves, measurement.kv_curves, measurement.rotation_kl_nats


def remember(session: Session, request: JobRequest, measurement_id: str, now: datetime) -> None:
    """Answer this kind of request for this model with this measurement from now on."""
    session.merge(
        MeasurementNameRow(
            request_digest=name_digest(request), measurement_id=measurement_id, answered_at=now
        )
    )


def find_for(session: Session, request: JobRequest) -> list[str]:
    """Return the measurements that answer this kind of request for this model; often none.

    For `auto` they are those of the model as it is and rotated, or the one that an earlier `auto`
    job ended with where the model cannot be rotated. For a limited time they are those of the most
    effort that was made up to the stated one.
    """
    if request.max_minutes is not None:
        at = (request.at_effort(effort) for effort in efforts_up_to(request.effort))
        return next(filter(None, (find_for(session, one) for one in at)), [])
    if request.rotation is not Rotation.AUTO:
        return _named(session, request)
    plain, rotated = (
        _named(session, request.model_copy(update={"rotation": rotation}))
        for rotation in auto_rotations(has_own_formats=request.runtime is Runtime.BITBUDGET)
    )
    ended_with = _named(session, request)
    if not (ended_with or (plain and rotated)):
        return []
    return list(dict.fromkeys((*plain, *rotated, *ended_with)))


def _named(session: Session, request: JobRequest) -> list[str]:
    row = session.get(MeasurementNameRow, name_digest(request))
    return [] if row is None else [row.measurement_id]


def find(session: Session, key: str) -> MeasurementRow | None:
    """Return the head of a measurement, None when there is none."""
    return session.get(MeasurementRow, key)


def get(session: Session, measurement_id: str) -> MeasurementRow:
    """Return the head of a measurement; NotFoundError when there is none."""
    known = measurement_id.isascii() and measurement_id.isalnum()
    row = session.get(MeasurementRow, measurement_id) if known else None
    if row is None:
        raise NotFoundError(what="measurement", name=measurement_id)
    return row


def load(session: Session, measurement_id: str) -> Measurement:
    """Return a whole measurement; NotFoundError when there is none that can be read."""
    found = read(session, get(session, measurement_id))
    if found is None:
        raise NotFoundError(what="readable measurement", name=measurement_id)
    return found


def read(session: Session, row: MeasurementRow) -> Measurement | None:
    """Return the whole measurement of a head, None where a part of it cannot be read."""
    query = sa.select(TensorRow).where(TensorRow.measurement_id == row.id)
    tensors = session.scalars(query.order_by(TensorRow.position)).all()
    return measurement_from_rows(row, list(tensors))


def of_models(session: Session, digests: Iterable[str]) -> dict[str, list[MeasurementRow]]:
    """Return the measurements of each model, oldest first."""
    query = sa.select(MeasurementRow).where(MeasurementRow.model_digest.in_(list(digests)))
    found: dict[str, list[MeasurementRow]] = {}
    for row in session.scalars(query.order_by(MeasurementRow.created_at)):
        found.setdefault(row.model_digest, []).append(row)
    return found


def tensor_page(
    session: Session,
    measurement_id: str,
    *,
    sort: TensorSort,
    order: Order,
    after: Key | None,
    limit: int,
    layer: int | None,
    role: str | None,
) -> list[TensorRow]:
    """Return up to `limit` + 1 tensors in the wished order, after the one with key `after`."""
    column = TensorRow.__table__.c[sort.value]
    position = TensorRow.__table__.c.position
    is_rising = order is Order.ASCENDING
    query = sa.select(TensorRow).where(TensorRow.measurement_id == measurement_id)
    if layer is not None:
        query = query.where(TensorRow.layer == layer)
    if role is not None:
        query = query.where(TensorRow.role == role)
    if after is not None:
        here = sa.tuple_(column, position)
        query = query.where(here > sa.tuple_(*after) if is_rising else here < sa.tuple_(*after))
    ordered = (column, position) if is_rising else (column.desc(), position.desc())
    return list(session.scalars(query.order_by(*ordered).limit(limit + 1)))
