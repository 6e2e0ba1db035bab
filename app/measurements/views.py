"""Rows of measurements as the API shows them."""

from __future__ import annotations

from bitbudget.app.measurements.schemas import MeasurementSummary
from bitbudget.app.measurements.tables import MeasurementRow
from bitbudget.app.storage.stored import read_stored

__all__ = ["measurement_summary"]


def measurement_summary(row: MeasurementRow) -> MeasurementSummary | None:
    """Return how a measurement was made, None where what is stored of that cannot be read."""
    head = row.head if isinstance(row.head, dict) else {}
    made = {name: head[name] for name in MeasurementSummary.model_fields if name in head}
    own = {"id": row.id, "created_at": row.created_at, "imported": not row.worker_id}
    return read_stored(MeasurementSummary, {**made, **own}, f"measurement {row.id}")
