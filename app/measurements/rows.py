"""A measurement as rows, and rows as a measurement: nothing is lost on the way."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import Curve, CurvePoint, Measurement
from bitbudget.app.measurements.tables import MeasurementRow, TensorRow

__all__ = [
    "measurement_from_rows",
    "measurement_row",
    "tensor_rows",
]

_MEASUREMENT: Final = TypeAdapter(Measurement)
_POINTS: Final = TypeAdapter(tuple[CurvePoint, ...])


def measurement_row(measurement: Measurement, now: datetime) -> MeasurementRow:
    """Return the head of a measurement as a row."""
    head = dataclasses.replace(measurement, curves=())
    return MeasurementRow(
        id=measurement.key,
        model_digest=measurement.model.digest,
        encoder=measurement.encoder,
        sensitivity=measurement.sensitivity,
        rotation=measurement.rotation,
        text=measurement.text,
        head=_MEASUREMENT.dump_python(head, mode="json"),
        created_at=now,
    )


def tensor_rows(measurement: Measurement) -> list[TensorRow]:
    """Return one row per curve, in order."""
    modules = {module.path: module for module in measurement.inventory.modules}
    return [
        _tensor_row(measurement.key, position, curve, modules[curve.path])
        for position, curve in enumerate(measurement.curves)
    ]


def _tensor_row(key: str, position: int, curve: Curve, module: Module) -> TensorRow:
    return TensorRow(
        measurement_id=key,
        position=position,
        path=curve.path,
        role=module.role,
        layer=module.layer,
        weights=module.weights,
        alpha_nats=curve.alpha_nats,
        digest=curve.digest,
        points=_POINTS.dump_python(curve.points, mode="json"),
        features=dict(curve.features),
    )


def measurement_from_rows(row: MeasurementRow, tensors: list[TensorRow]) -> Measurement:
    """Put a measurement together again."""
    head = _MEASUREMENT.validate_python(row.head)
    return dataclasses.replace(head, curves=tuple(_curve(tensor) for tensor in tensors))


def _curve(row: TensorRow) -> Curve:
    return Curve(
        path=row.path,
        alpha_nats=row.alpha_nats,
        points=_POINTS.validate_python(row.points),
        digest=row.digest,
        features=row.features,
    )
