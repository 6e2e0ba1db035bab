"""Symmetric matrices in half the bytes: each element below the diagonal is stored once.

With k = n - n // 2 the matrix falls into A11 (k, k), A21 (n - k, k) and A22 (n - k, n - k). One
square (k, k) holds the lower triangle of A11 and, above its diagonal, that of A22 turned; A21 and
the diagonal of A22 follow. The idea is that of LAPACK's rectangular full packed format (its
working note 199).
"""

from __future__ import annotations

import numpy as np

__all__ = ["packed", "unpacked"]


def packed(matrices: np.ndarray) -> np.ndarray:
    """Return (..., m) of symmetric matrices (..., n, n): m is about n^2 / 2.

    What is above the diagonal is not looked at.
    """
    lead, n = matrices.shape[:-2], matrices.shape[-1]
    k = n - n // 2
    square = np.tril(matrices[..., :k, :k])
    square[..., : n - k, : n - k] += np.tril(matrices[..., k:, k:], -1).swapaxes(-1, -2)
    below = matrices[..., k:, :k].reshape(*lead, -1)
    diagonal = np.diagonal(matrices[..., k:, k:], axis1=-2, axis2=-1)
    return np.concatenate([square.reshape(*lead, -1), below, diagonal], axis=-1)


def unpacked(values: np.ndarray, n: int) -> np.ndarray:
    """Return the symmetric matrices (..., n, n) that `packed` made `values` of."""
    lead, k = values.shape[:-1], n - n // 2
    square, below, diagonal = np.split(values, [k * k, k * n], axis=-1)
    square = square.reshape(*lead, k, k)
    result = np.empty((*lead, n, n), values.dtype)
    result[..., k:, :k] = below.reshape(*lead, n - k, k)
    result[..., :k, k:] = result[..., k:, :k].swapaxes(-1, -2)
    result[..., :k, :k] = _mirrored(np.tril(square, -1), np.diagonal(square, axis1=-2, axis2=-1))
    upper = np.triu(square, 1)[..., : n - k, : n - k]
    result[..., k:, k:] = _mirrored(upper, diagonal)
    return result


def _mirrored(triangle: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """Return the symmetric matrices with this triangle (zero elsewhere) and diagonal."""
    result: np.ndarray = triangle + triangle.swapaxes(-1, -2)
    index = np.arange(diagonal.shape[-1])
    result[..., index, index] = diagonal
    return result
