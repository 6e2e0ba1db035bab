"""The objective of a compensated encoder: 1/2 sum over terms of tr(B E A E^T)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["DAMPING", "ROW_DAMPING", "Term", "damped_term"]

DAMPING: Final = 0.01
"""Added to A's diagonal, relative to its mean (GPTQ's default)."""
ROW_DAMPING: Final = 0.03
"""Added to B's diagonal, relative to its mean."""


@dataclass(frozen=True, slots=True)
class Term:
    """A float32 (in, in) and B (out, out), or only B's diagonal (out,)."""

    columns: np.ndarray
    rows: np.ndarray

    @property
    def is_coupled(self) -> bool:
        """Whether an error in one row changes what an error in another costs."""
        return self.rows.ndim > 1

    @property
    def row_diagonal(self) -> np.ndarray:
        """B's diagonal."""
        return np.diagonal(self.rows) if self.is_coupled else self.rows


def damped_term(columns: np.ndarray, rows: np.ndarray) -> Term:
    """Return a term whose factors are positive definite: 1 % on A's diagonal, 3 % on B's.

    A factor of zeros, or one that is not finite, counts as the identity. A diagonal B stays as it
    is: a row that costs nothing is free.
    """
    if rows.ndim == 1:
        is_usable = bool(np.isfinite(rows).all()) and float(rows.sum()) > 0
        return Term(_damped(columns, DAMPING), rows if is_usable else np.ones_like(rows))
    return Term(_damped(columns, DAMPING), _damped(rows, ROW_DAMPING))


def _damped(matrix: np.ndarray, damping: float) -> np.ndarray:
    mean = float(np.trace(matrix)) / len(matrix)
    if not np.isfinite(mean) or mean <= 0:
        return np.eye(len(matrix), dtype=np.float32)
    result = np.array(matrix, np.float32)
    result[np.diag_indices_from(result)] += np.float32(damping * mean)
    return result
