"""A measurement as rows, and rows as a measurement: nothing is lost on the way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from pydantic import TypeAdapter

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import Curve, CurvePoint, Measurement
from bitbudget.app.measurements.tables import MeasurementRow, TensorRow
from bitbudget.app.storage.stored import read_adapted

__all__ = ["PreparedMeasurement", "measurement_from_rows"]

_MEASUREMENT: Final = TypeAdapter(Measurement)
_POINTS: Final = TypeAdapter(tuple[CurvePoint, ...])
_CURVES: Final = TypeAdapter(tuple[Curve, ...])


@dataclass(frozen=True, slots=True)
class PreparedMeasurement:
    """A measurement as values of columns, made before the transaction that stores it.

    A large one takes a second to turn into values, which no other writer should wait for.
    """

    measurement: Measurement
    key: str
    head: JsonObject
    tensors: list[JsonObject]

    @classmethod
    def of(cls, measurement: Measurement) -> Self:
        """Return the values of a measurement and of its curves, in order."""
        modules = {module.path: module for module in measurement.inventory.modules}
        key = measurement.key  # looks at every point of every curve
        return cls(
            measurement=measurement,
            key=key,
            head=_MEASUREMENT.dump_python(dataclasses.replace(measurement, curves=()), mode="json"),
            tensors=[
                _tensor(key, position, curve, modules[curve.path])
                for position, curve in enumerate(measurement.curves)
            ],
        )

    def row(self, now: datetime) -> MeasurementRow:
        """Return the head as a row."""
        measurement = self.measurement
        return MeasurementRow(
            id=self.key,
            model_digest=measurement.model.digest,
            encoder=measurement.encoder,
            sensitivity=measurement.sensitivity,
            rotation=measurement.rotation,
            text=measurement.text,
            head=self.head,
            created_at=now,
        )


def _tensor(key: str, position: int, curve: Curve, module: Module) -> JsonObject:
    return {
        "measurement_id": key,
        "position": position,
        "path": curve.path,
        "role": module.role,
        "layer": module.layer,
        "weights": module.weights,
        "alpha_nats": curve.alpha_nats,
        "digest": curve.digest,
        "points": _POINTS.dump_python(curve.points, mode="json"),
        "features": dict(curve.features),
    }


def measurement_from_rows(row: MeasurementRow, tensors: list[TensorRow]) -> Measurement | None:
    """Put a measurement together again; None where a part that is stored cannot be read."""
    where = f"measurement {row.id}"
    head = read_adapted(_MEASUREMENT, row.head, "head", where)
    curves = read_adapted(_CURVES, [_curve(tensor) for tensor in tensors], "curves", where)
    if head is None or curves is None or not all(curve.points for curve in curves):
        return None
    return dataclasses.replace(head, curves=curves)


def _curve(row: TensorRow) -> JsonObject:
    return {
        "path": row.path,
        "alpha_nats": row.alpha_nats,
        "points": row.points,
        "digest": row.digest,
        "features": row.features,
    }
