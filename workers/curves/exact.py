"""A module's predicted KL in every format, from the deployed encoder's own error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import KEEP, Format, Mode
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import KEEP_POINT, CurvePoint, Encoder
from bitbudget.workers.encoders import encode
from bitbudget.workers.encoders.gptq import ModuleEncoder
from bitbudget.workers.fisher.statistics import ModuleStatistics

__all__ = [
    "COMPENSATED",
    "as_carried",
    "as_float32",
    "coding_errors",
    "decode",
    "is_compensated",
    "kl_curve",
]

COMPENSATED = frozenset({Encoder.GPTQ, Encoder.YAQA})
"""Encoders that need a module's statistics."""


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
        encoder: The deployed encoder; float formats, which no compensated encoder has, are
            encoded by `careful` under it.
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
    together = [f for f in formats if is_compensated(f, encoder, statistics)]
    if together:
        module = ModuleEncoder(statistics, encoder, moment)
        for index in np.ndindex(*values.shape[:-2]):
            coded = module.code(values[index], dtype, together, index, sweeps=sweeps)
            for format_, part in coded.items():
                yield index, format_, part.values - values[index]
    for format_ in formats:
        if format_ not in together:
            for index in np.ndindex(*values.shape[:-2]):
                arrays = encode(as_carried(values[index], dtype), dtype, format_, _plain(encoder))
                yield index, format_, decode(arrays, format_, dtype) - values[index]


def is_compensated(format_: Format, encoder: Encoder, statistics: ModuleStatistics) -> bool:
    """Whether this format is coded with error feedback: not where no gradient was seen."""
    has_seen = bool(statistics.terms) and statistics.alpha_nats > 0
    return encoder in COMPENSATED and format_.mode is Mode.AFFINE and has_seen


def decode(arrays: dict[str, np.ndarray], format_: Format, dtype: Dtype) -> np.ndarray:
    """Return the float32 values that stored arrays stand for: scale and bias widened first."""
    affine = format_.mode is Mode.AFFINE
    scales, biases = arrays["scales"], arrays.get("biases")
    values = mx.dequantize(
        mx.array(arrays["weight"]),
        mx.array(as_float32(scales, dtype) if affine else scales),
        mx.array(as_float32(biases, dtype)) if affine and biases is not None else None,
        group_size=format_.group_size,
        bits=format_.bits,
        mode=format_.mode.value,
    )
    return np.array(values.astype(mx.float32))


def as_float32(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return carried values (bf16 as bits in uint16) widened to float32."""
    if dtype is Dtype.BF16 and values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, np.float32)


def as_carried(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return float32 `values`, exact in `dtype`, in the type that carries it."""
    if dtype is Dtype.BF16:
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16) if dtype is Dtype.F16 else values


def _plain(encoder: Encoder) -> Encoder:
    return Encoder.CAREFUL if encoder in COMPENSATED else encoder
