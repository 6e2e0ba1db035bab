"""The KL that rounding a module's inputs to int8 costs, from the statistics that were stored.

Rounding errors dx of tokens are independent, and of channels uncorrelated, so the module's output
errs by W dx and KL ~ 1/2 E (g . W dx)^2 = 1/2 sum_i d_i (W^T B W)_ii: B the second moment of the
output's gradient g, scaled to trace one, and d_i = E[|g|^2 dx_i^2]. Of a head that was summed with
the statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.fisher.statistics import KroneckerTerm, ModuleStatistics
from bitbudget.workers.native.arrays import as_float32

__all__ = ["input_rounding_nats"]

_MOST_COLUMNS: Final = 1024
"""Inputs up to which all are summed; of a wider module so many are drawn, by what they may cost."""
_SEED: Final = 0x17


def input_rounding_nats(
    parts: Sequence[npt.NDArray[Any]], dtype: Dtype, statistics: ModuleStatistics
) -> float | None:
    """Return nats per token of text, None where the statistics lack what it takes.

    `parts` are the weight (out, in), or one for each expert, as the checkpoint stores them.
    """
    if statistics.rounding_nats is not None:
        return statistics.rounding_nats
    errors = statistics.rounding
    if errors is None or not statistics.terms:
        return None
    weights = parts if len(parts) > 1 else parts[0].reshape(-1, *parts[0].shape[-2:])
    own_errors = errors.reshape(len(weights), -1)
    own_rows = statistics.terms[0].rows.reshape(len(weights), *_own(statistics.terms[0]))
    sums = map(_summed, weights, [dtype] * len(weights), own_rows, own_errors)
    return 0.5 * math.fsum(sums)


def _own(term: KroneckerTerm) -> tuple[int, ...]:
    """Return the shape of B, or of its diagonal, without the axis of experts."""
    return term.rows.shape[term.columns.ndim - 2 :]


def _summed(
    weight: npt.NDArray[Any],
    dtype: Dtype,
    rows: npt.NDArray[np.float32],
    errors: npt.NDArray[np.float32],
) -> float:
    """Return sum_i d_i (W^T B W)_ii, estimated from some columns where there are many.

    Columns are drawn in proportion to d_i |w_i|^2, each with the reciprocal of its probability.
    """
    trace = float(np.trace(rows) if rows.ndim > 1 else rows.sum(dtype=np.float64))
    if not (trace > 0 and errors.any()):
        return 0.0
    if len(errors) <= _MOST_COLUMNS:
        values = as_float32(np.ascontiguousarray(weight), dtype)
        return float(_costs(values, rows) @ errors.astype(np.float64)) / trace
    likely = errors * np.square(as_float32(np.ascontiguousarray(weight), dtype)).sum(0)
    chance = likely.astype(np.float64) / max(float(likely.sum(dtype=np.float64)), 1e-300)
    drawn = np.random.default_rng(_SEED).choice(len(errors), _MOST_COLUMNS, p=chance)
    values = as_float32(np.ascontiguousarray(weight[:, drawn]), dtype)
    shares = _costs(values, rows) * errors[drawn] / chance[drawn]
    return float(shares.mean()) / trace


def _costs(values: npt.NDArray[np.float32], rows: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return w_i^T B w_i of every column, float64 (in,)."""
    moved = rows @ values if rows.ndim > 1 else rows[:, None] * values
    return np.asarray(np.einsum("oi,oi->i", moved, values, dtype=np.float64))
