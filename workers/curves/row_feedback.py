"""What an encoder that sees B gains by rows that make up for each other, from some columns.

The objective tr(B dW A dW^T) treats its sides alike, so what B gains depends little on how wide A
is: all rows of a few columns tell it at a small part of the cost of all columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.workers.curves.anchors import Gain
from bitbudget.workers.encoders.descent import curve_sweeps
from bitbudget.workers.encoders.target import Target

__all__ = ["COLUMNS", "coupling_gains", "typical_columns"]

COLUMNS: Final = 256
"""Columns that are coded: two of the largest groups."""


def typical_columns(moment: np.ndarray) -> slice:
    """Return neighbouring columns whose part of A's trace is the median of such parts."""
    width = len(moment)
    if width <= COLUMNS:
        return slice(0, width)
    whole = width // COLUMNS * COLUMNS
    traces = np.diagonal(moment)[:whole].reshape(-1, COLUMNS).sum(1)
    seen = np.flatnonzero(traces > 0)
    order = seen[np.argsort(traces[seen], kind="stable")] if len(seen) else np.zeros(1, int)
    begin = int(order[len(order) // 2]) * COLUMNS
    return slice(begin, begin + COLUMNS)


def coupling_gains(
    weight: np.ndarray,
    dtype: Dtype,
    formats: Sequence[Format],
    moment: np.ndarray,
    rows: np.ndarray,
    *,
    seen: np.ndarray,
    width: int,
) -> Mapping[Format, Gain]:
    """Return the gain in each affine format.

    Args:
        weight: Some columns, float32 (out, columns), a multiple of every format's group.
        dtype: What scales and biases are stored in.
        formats: Affine.
        moment: A of these columns.
        rows: B (out, out), by which errors are priced.
        seen: B as the encoder takes it.
        width: Columns of the whole weight: it is swept as often.
    """
    diagonal, sweeps = np.ascontiguousarray(np.diagonal(rows)), curve_sweeps(width)
    free = np.ones(len(rows), np.float32)
    found = []
    for own, price in ((free, diagonal), (seen, rows)):
        target = Target(moment, ((moment, own),), own)
        found.append(_costs(target, weight, dtype, formats, price, sweeps=sweeps))
    gains = {}
    for format_, before, after in zip(formats, *found, strict=True):
        is_known = min(*before, *after) > 0
        gains[format_] = Gain(after[0] / before[0], after[1] / before[1]) if is_known else Gain()
    return gains


def _costs(
    target: Target,
    weight: np.ndarray,
    dtype: Dtype,
    formats: Sequence[Format],
    rows: np.ndarray,
    *,
    sweeps: int,
) -> list[tuple[float, float]]:
    """Return tr(B dW A dW^T) for B or its diagonal, and the sum of squares of dW, by format."""
    coded = target.code(weight, formats, dtype, sweeps=sweeps)
    results = []
    for format_ in formats:
        error = coded[format_].values - weight
        left = rows @ error if rows.ndim > 1 else error * rows[:, None]
        cost = float(np.einsum("ij,ij->", left, error @ target.moment, dtype=np.float64))
        results.append((cost, float(np.einsum("ij,ij->", error, error, dtype=np.float64))))
    return results
