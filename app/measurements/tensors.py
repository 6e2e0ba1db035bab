"""Tensors of a measurement as the API shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bitbudget.app.core.inventory import Module
from bitbudget.app.core.layout import module_bytes
from bitbudget.app.core.measurement import Curve, Measurement
from bitbudget.app.http.csv_lines import csv_line
from bitbudget.app.measurements.schemas import Tensor, TensorPoint

__all__ = ["tensor_csv", "tensor_view"]


def tensor_view(measurement: Measurement, position: int) -> Tensor:
    """Return the tensor at this place of the checkpoint."""
    curve = measurement.curves[position]
    module = measurement.inventory.module(curve.path)
    return Tensor(
        position=position,
        path=curve.path,
        role=module.role,
        layer=module.layer,
        kind=module.kind,
        shape=module.shape,
        dtype=module.dtype,
        weights=module.weights,
        decision_group=module.decision_group,
        alpha_nats=curve.alpha_nats,
        digest=curve.digest,
        features=dict(curve.features),
        points=_points(curve, module),
    )


def _points(curve: Curve, module: Module) -> list[TensorPoint]:
    return [
        TensorPoint(
            format=point.format,
            bytes=module_bytes(module, point.format),
            bits_per_weight=point.format.bits_per_weight(module.dtype),
            t2=point.t2,
            sqnr_db=point.sqnr_db if point.t2 > 0 else None,
            kl_nats=point.kl_nats,
        )
        for point in curve.points
    ]


_COLUMNS: Final = (
    "path",
    "layer",
    "role",
    "weights",
    "alpha_nats",
    "format",
    "bytes",
    "bits_per_weight",
    "t2",
    "sqnr_db",
    "kl_nats",
)


def tensor_csv(measurement: Measurement) -> Iterator[str]:
    """Give one line per tensor and format, after a line of names; features come last, by name."""
    features = sorted({name for curve in measurement.curves for name in curve.features})
    yield csv_line((*_COLUMNS, *features))
    for position in range(len(measurement.curves)):
        tensor = tensor_view(measurement, position)
        known = [tensor.features.get(name) for name in features]
        for point in tensor.points:
            values = {**tensor.model_dump(), **point.model_dump()}
            yield csv_line([*(values[name] for name in _COLUMNS), *known])
