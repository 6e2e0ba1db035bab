"""Error feedback: codes of one column correct for the errors of the columns before it.

GPTQ (arXiv 2210.17323): minimise tr(dW A dW^T) column by column with the Cholesky factor of A^-1.
YAQA (arXiv 2505.22988): minimise tr(B dW A dW^T); blocks of rows are coded one after the other, and
each block's target is moved by the errors of the blocks before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from bitbudget.workers.encoders.quadratic import DAMPING, ROW_DAMPING
from bitbudget.workers.encoders.triangular import inverse_factor_of

__all__ = ["Feedback", "inverse_factor", "row_feedback"]

_ROWS: Final = 32
"""Rows coded side by side before their errors go to the rows after them: the kernel's panel."""
_MOST_DAMPING: Final = 1e3


def inverse_factor(second_moment: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Return the upper Cholesky factor U of (A + damping)^-1, float32 (in, in): A^-1 = U^T U.

    A singular A, or one whose factor fails, gets ten times the damping until it succeeds; an A of
    zeros (an input that never came) counts as the identity.
    """
    size = len(second_moment)
    mean = float(np.trace(second_moment, dtype=np.float64)) / size
    if not np.isfinite(mean) or mean <= 0:
        return np.eye(size, dtype=np.float32)
    while damping < _MOST_DAMPING:
        try:
            return inverse_factor_of(second_moment, 1 / mean, damping)
        except np.linalg.LinAlgError:
            damping *= 10
    return np.eye(size, dtype=np.float32)


def row_feedback(rows: np.ndarray, damping: float = ROW_DAMPING) -> np.ndarray:
    """Return what the error of row k adds to the target of a later row i, float32 (out, out).

    From the Cholesky factor of B^-1, as `inverse_factor`: strictly upper, U_ki / U_kk.
    """
    factor = inverse_factor(rows, damping)
    feedback = factor / np.diagonal(factor)[:, None]
    result: np.ndarray = np.triu(feedback, 1).astype(np.float32)
    return result


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the error of a weight adds to the targets of those that are coded after it.

    Attributes:
        pull: float32 (in, in): row c is what a unit of error in each earlier column adds to c.
        importance: float32 (in,): what an error costs that later columns make up for.
        links: float32 (out, out): row k is what a unit of difference between a row's target and
            its stored values adds to rows in later blocks; None for GPTQ.
    """

    pull: np.ndarray
    importance: np.ndarray
    links: np.ndarray | None

    @classmethod
    def against(cls, moment: np.ndarray, rows: np.ndarray) -> Feedback:
        """Return the feedback for A, and for B where that is more than a diagonal."""
        factor = inverse_factor(moment)
        diagonal = np.diagonal(factor).copy()
        np.divide(factor, -diagonal[:, None], out=factor)
        _turn(factor)
        links = _links(row_feedback(rows)) if rows.ndim > 1 else None
        return cls(np.ascontiguousarray(factor), 1 / np.square(diagonal), links)


def _turn(upper: np.ndarray) -> None:
    """Transpose an upper triangular matrix in place, without its diagonal."""
    for begin in range(0, len(upper), _ROWS):
        own = slice(begin, begin + _ROWS)
        upper[own, own] = np.triu(upper[own, own], 1).T
        after = slice(begin + _ROWS, None)
        upper[after, own] = upper[own, after].T
        upper[own, after] = 0


def _links(feedback: np.ndarray) -> np.ndarray:
    """Return `Feedback.links`.

    Within a block the errors e solve e_k = d_k + sum over earlier rows, by forward substitution
    of the block of U, so that the feedback is exact between blocks.
    """
    links = np.zeros_like(feedback)
    for begin in range(0, len(feedback), _ROWS):
        block = slice(begin, begin + _ROWS)
        own = feedback[block, block].astype(np.float64)
        inner = np.eye(len(own)) + own
        links[block, begin + _ROWS :] = -np.linalg.solve(inner, feedback[block, begin + _ROWS :])
    return links
