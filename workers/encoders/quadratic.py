"""The objective of a compensated encoder, 1/2 sum over terms of tr(B E A E^T), on blocks of rows.

Errors, gradients and steps are float32 (formats, in, out): products are made format by format with
shapes that do not depend on how many formats there are, so that a format coded alone gets the same
bits as among others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["Term", "accepted", "curvature", "damped_term", "objective"]

_DAMPING: Final = 0.01
"""Added to A's diagonal, relative to its mean (GPTQ's default)."""
_ROW_DAMPING: Final = 0.03


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

    def block(self, rows: slice) -> Term:
        """Return the term of these rows alone."""
        return Term(self.columns, self.rows[rows, rows] if self.is_coupled else self.rows[rows])

    def gradient(self, error: np.ndarray, rows: slice) -> np.ndarray:
        """Return (B E A)^T of these rows for the whole error (formats, in, out)."""
        if self.is_coupled:
            result: np.ndarray = self.columns @ (error @ self.rows[:, rows])
        else:
            result = self.columns @ (error[..., rows] * self.rows[rows])
        return result

    def coupled(self, step: np.ndarray) -> np.ndarray:
        """Return B applied to a step (..., out) of all of this term's rows."""
        result: np.ndarray = step @ self.rows if self.is_coupled else step * self.rows
        return result


def damped_term(columns: np.ndarray, rows: np.ndarray) -> Term:
    """Return a term whose factors are positive definite: 1 % on A's diagonal, 3 % on B's.

    A factor of zeros, or one that is not finite, counts as the identity. A diagonal B stays as it
    is: a row that costs nothing is free.
    """
    if rows.ndim == 1:
        is_usable = bool(np.isfinite(rows).all()) and float(rows.sum()) > 0
        return Term(_damped(columns, _DAMPING), rows if is_usable else np.ones_like(rows))
    return Term(_damped(columns, _DAMPING), _damped(rows, _ROW_DAMPING))


def _damped(matrix: np.ndarray, damping: float) -> np.ndarray:
    mean = float(np.trace(matrix)) / len(matrix)
    if not np.isfinite(mean) or mean <= 0:
        return np.eye(len(matrix), dtype=np.float32)
    result = np.array(matrix, np.float32)
    result[np.diag_indices_from(result)] += np.float32(damping * mean)
    return result


def objective(terms: Sequence[Term], error: np.ndarray) -> np.ndarray:
    """Return the objective of each format, float64 (formats,), of a whole error."""
    every = slice(0, error.shape[-1])
    total = np.zeros(len(error))
    for term in terms:
        product = np.multiply(error, term.gradient(error, every), dtype=np.float64)
        total += 0.5 * product.sum((1, 2))
    return total


def curvature(terms: Sequence[Term], columns: slice) -> np.ndarray:
    """Return sum of B_ii A_jj, (columns, out): the second derivative of each coordinate."""
    diagonals = [(np.diagonal(t.columns)[columns], t.row_diagonal) for t in terms]
    result: np.ndarray = np.sum([a[:, None] * b for a, b in diagonals], axis=0)
    return result


def accepted(
    terms: Sequence[Term], columns: slice, gradient: np.ndarray, step: np.ndarray
) -> np.ndarray:
    """Return which rows of `step` to take, bool (formats, out), so that the objective falls.

    `step` and the objective's `gradient` are (formats, columns, out) of these columns; the steps of
    coupled rows are judged together: rows whose share of the joint change is not negative stay,
    and if the others do not lower the objective together, all stay.
    """
    keep: np.ndarray = _shares(terms, columns, gradient, step).sum(1) < 0
    if any(term.is_coupled for term in terms):
        shares = _shares(terms, columns, gradient, step * keep[:, None])
        keep &= (shares.sum((1, 2)) < 0)[:, None]
    return keep


def _shares(
    terms: Sequence[Term], columns: slice, gradient: np.ndarray, step: np.ndarray
) -> np.ndarray:
    change = [t.coupled(t.columns[columns, columns] @ step) for t in terms]
    result: np.ndarray = step * (gradient + np.float32(0.5) * sum(change))
    return result
