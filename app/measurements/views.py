"""Rows of measurements as the API shows them."""

from __future__ import annotations

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.measurements.schemas import MeasurementSummary
from bitbudget.app.measurements.tables import MeasurementRow

__all__ = ["measurement_summary"]


def measurement_summary(row: MeasurementRow) -> MeasurementSummary:
    """Return how a measurement was made."""
    return MeasurementSummary(
        id=row.id, created_at=row.created_at, imported=not row.worker_id, **_made(row.head)
    )


def _made(head: JsonObject) -> JsonObject:
    wanted = MeasurementSummary.model_fields.keys() - {"id", "created_at", "imported"}
    return {name: head[name] for name in wanted}
