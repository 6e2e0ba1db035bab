"""A module's predicted KL in every format, from the deployed encoder's own error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import KEEP_POINT, CurvePoint, Encoder
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.native.arrays import as_float32

__all__ = ["coding_errors", "kl_curve"]


def kl_curve(
    module: Module,
    weight: np.ndarray,
    formats: Sequence[Format],
    encoder: Encoder,
    statistics: ModuleStatistics,
) -> list[CurvePoint]:
    """Return a point for each format and for `keep`: t2, and 1/2 tr(B dW A dW^T) in nats per token.

    Args:
        module: Whose shape and dtype say what is stored.
        weight: float32 (..., out, in), or the NumPy type that carries the dtype (bf16 bits).
        formats: Candidates that are legal for the module.
        encoder: The deployed encoder; what it does not code is coded by what stands in for it.
        statistics: The module's own.
    """
    values = as_float32(weight, module.dtype)
    power = float(np.sum(np.square(values), dtype=np.float64)) or 1.0
    errors = {format_: 0.0 for format_ in formats if format_ != KEEP}
    costs = dict(errors)
    for index, format_, error in coding_errors(
        values, module.dtype, list(errors), encoder, statistics
    ):
        errors[format_] += float(np.sum(np.square(error), dtype=np.float64))
        for term in statistics.terms:
            costs[format_] += term.part(index).kl_nats(error)
    points = []
    for format_, squared in errors.items():
        t2 = squared / power
        kl = costs[format_] if statistics.terms else statistics.alpha_nats * t2
        points.append(CurvePoint(format_, t2, max(kl, 0.0)))
    return [*points, KEEP_POINT]


def coding_errors(
    values: np.ndarray,
    dtype: Dtype,
    formats: Sequence[Format],
    encoder: Encoder,
    statistics: ModuleStatistics,
    *,
    moment: np.ndarray | None = None,
    sweeps: int | None = None,
) -> Iterator[tuple[tuple[int, ...], Format, np.ndarray]]:
    """Yield (expert index, format, dequantized - original) of a float32 weight (..., out, in).

    `moment` is what a compensated encoder works against where `statistics` are of a part only. Its
    descent makes as many `sweeps` as stored codes get where they are not given.
    """
    module = ModuleEncoder(statistics, encoder, moment)
    for index in np.ndindex(*values.shape[:-2]):
        for format_, stored in module.values(values[index], dtype, formats, index, sweeps=sweeps):
            yield index, format_, stored - values[index]
