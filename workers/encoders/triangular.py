"""The factor U of a wide A^-1 = U^T U from one Cholesky factor, in strips of rows.

With J the reversal of an order and J A J = L L^T, U = J L^-1 J. That is a fifth of the arithmetic
of inverting A and factoring the inverse. L is kept as strips up to the diagonal, in float64: half a
matrix beside A and U.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

__all__ = ["inverse_factor_of"]

_STRIP: Final = 256
_LEAF: Final = 32
"""Up to this size a triangular matrix is inverted as any other."""
_COLUMNS: Final = 1024
"""Columns of the inverse that one product makes: it skips what lies above the diagonal."""


def inverse_factor_of(matrix: np.ndarray, scale: float, damping: float) -> np.ndarray:
    """Return the upper Cholesky factor U of (scale matrix + damping I)^-1, float32 (n, n).

    Raises numpy.linalg.LinAlgError when the sum is not positive definite.
    """
    strips, inverses = _strips(matrix, scale, damping)
    upper = np.zeros(matrix.shape, np.float32)
    inverse = upper[::-1, ::-1]
    while strips:
        strip, own = strips.pop(0), inverses.pop(0)
        begin, end = strip.shape[1] - len(strip), strip.shape[1]
        before = -(own @ strip[:, :begin]).astype(np.float32)
        for first in range(0, begin, _COLUMNS):
            last = min(first + _COLUMNS, begin)
            inverse[begin:end, first:last] = before[:, first:] @ inverse[first:begin, first:last]
        inverse[begin:end, begin:end] = own
    return upper


def _strips(
    matrix: np.ndarray, scale: float, damping: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the rows of the Cholesky factor of the matrix in reversed order, to the diagonal.

    The second list holds the inverses of the square blocks on the diagonal.
    """
    turned = matrix[::-1, ::-1]
    strips: list[np.ndarray] = []
    inverses: list[np.ndarray] = []
    for begin in range(0, len(matrix), _STRIP):
        end = min(begin + _STRIP, len(matrix))
        strip = turned[begin:end, :end].astype(np.float64)
        strip *= scale
        strip[:, begin:][np.diag_indices(end - begin)] += damping
        for (at, other), inverse in zip(_with_starts(strips), inverses, strict=True):
            part = strip[:, at : at + len(other)]
            part -= strip[:, :at] @ other[:, :at].T
            part[:] = part @ inverse.T
        own = strip[:, begin:]
        own -= strip[:, :begin] @ strip[:, :begin].T
        own[:] = np.linalg.cholesky(own)
        inverses.append(_inverse(own))
        strips.append(strip)
    return strips, inverses


def _inverse(lower: np.ndarray) -> np.ndarray:
    """Return the inverse of a lower triangular matrix, from those of its two diagonal halves."""
    size = len(lower)
    if size <= _LEAF:
        return np.tril(np.linalg.inv(lower))
    half = size // 2
    first, last = _inverse(lower[:half, :half]), _inverse(lower[half:, half:])
    found = np.zeros_like(lower)
    found[:half, :half], found[half:, half:] = first, last
    found[half:, :half] = -last @ lower[half:, :half] @ first
    return found


def _with_starts(strips: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    begin = 0
    for strip in strips:
        yield begin, strip
        begin += len(strip)
