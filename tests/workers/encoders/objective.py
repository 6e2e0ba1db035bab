"""What compensated encoders minimise, and a plain float64 reference of how they go about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.encoders.quadratic import Term
from bitbudget.workers.native.arrays import from_float32, to_float32


def stored(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return float32 values as rounded to `dtype`."""
    return to_float32(from_float32(np.asarray(values, np.float32), dtype), dtype)


def objective(terms: Sequence[Term], error: np.ndarray) -> float:
    """Return 1/2 sum tr(B E A E^T) in float64 for an error (out, in)."""
    total = 0.0
    for term in terms:
        rows = term.rows if term.is_coupled else np.diag(term.rows)
        right = error.astype(np.float64) @ term.columns
        total += 0.5 * float(np.sum(right * (rows.astype(np.float64) @ error)))
    return total


def fed_back(
    weight: np.ndarray, feedback: Feedback, scales: np.ndarray, biases: np.ndarray, most: int
) -> np.ndarray:
    """Return the codes (out, in) of the feedback pass of up to 32 rows on given grids."""
    group = weight.shape[1] // scales.shape[1]
    targets = weight.astype(np.float64)
    codes = np.empty(weight.shape, np.uint8)
    for column in range(weight.shape[1]):
        scale, bias = scales[:, column // group], biases[:, column // group]
        code = np.clip(np.rint((targets[:, column] - bias) / scale), 0, most)
        codes[:, column] = code
        error = targets[:, column] - (code * scale + bias)
        targets += np.outer(error, feedback.pull[:, column])
    return codes
