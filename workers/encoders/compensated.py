"""Error feedback: codes of one column correct for the errors of the columns before it.

GPTQ (arXiv 2210.17323): minimise tr(dW A dW^T) column by column with the Cholesky factor of A^-1.
YAQA (arXiv 2505.22988): minimise tr(B dW A dW^T); blocks of rows are coded one after the other, and
each block's target is moved by the errors of the blocks before it.

All formats of a module share A, so they are coded side by side; products are made format by format,
so that a format coded alone gets the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from app.core.dtypes import Dtype
from app.core.formats import Format
from workers.encoders.coded import Coded
from workers.encoders.groups import fit_groups

__all__ = ["compensate", "inverse_factor", "row_feedback"]

_COLUMNS: Final = 32
"""Columns coded between two updates of all that follow: the smallest group size."""
_ROWS: Final = 64
"""Rows coded side by side before their errors are fed to the rows after them."""
_FREE_ROWS: Final = 512
"""Rows coded side by side where no row waits for another: bounds the working memory."""
_DAMPING: Final = 0.01
"""Added to A's diagonal, relative to its mean (GPTQ's default)."""
_MOST_DAMPING: Final = 1e3


def inverse_factor(second_moment: np.ndarray, damping: float = _DAMPING) -> np.ndarray:
    """Return the upper Cholesky factor U of (A + damping)^-1, float32 (in, in): A^-1 = U^T U.

    A singular A, or one whose factor fails, gets ten times the damping until it succeeds; an A of
    zeros (an input that never came) counts as the identity.
    """
    matrix = np.asarray(second_moment, np.float64)
    mean = float(np.trace(matrix)) / len(matrix)
    if not np.isfinite(mean) or mean <= 0:
        return np.eye(len(matrix), dtype=np.float32)
    while damping < _MOST_DAMPING:
        try:
            lower = np.linalg.cholesky(matrix / mean + damping * np.eye(len(matrix)))
            inverse = np.linalg.inv(lower)
            return np.asarray(np.linalg.cholesky(inverse.T @ inverse).T, np.float32)
        except np.linalg.LinAlgError:
            damping *= 10
    return np.eye(len(matrix), dtype=np.float32)


def row_feedback(rows: np.ndarray, damping: float = 0.03) -> np.ndarray:
    """Return what the error of row k adds to the target of a later row i, float32 (out, out).

    From the Cholesky factor of B^-1, as `inverse_factor`: strictly upper, U_ki / U_kk.
    """
    factor = inverse_factor(rows, damping)
    feedback = factor / np.diagonal(factor)[:, None]
    result: np.ndarray = np.triu(feedback, 1).astype(np.float32)
    return result


def compensate(
    weight: np.ndarray,
    factor: np.ndarray,
    formats: Sequence[Format],
    dtype: Dtype,
    feedback: np.ndarray | None = None,
) -> list[Coded]:
    """Code `weight` (float32 (out, in)) in each of the affine `formats`.

    `factor` is `inverse_factor` of A; `feedback` is `row_feedback` of B, or None for GPTQ.
    """
    out = len(weight)
    step = _FREE_ROWS if feedback is None else _ROWS
    targets = np.repeat(weight[None], len(formats), axis=0)
    parts: list[list[Coded]] = [[] for _ in formats]
    for begin in range(0, out, step):
        end = min(begin + step, out)
        block = np.broadcast_to(
            targets[..., begin:end, :], (len(formats), *weight[begin:end].shape)
        )
        coded = _columns(block, factor, formats, dtype)
        for index, part in enumerate(coded):
            parts[index].append(part)
        if feedback is not None and end < out:
            _feed(targets, coded, feedback, begin, end)
    return [_stacked(part) for part in parts]


def _feed(
    targets: np.ndarray, coded: Sequence[Coded], feedback: np.ndarray, begin: int, end: int
) -> None:
    """Move the targets of the rows after `end` by the errors of the rows from `begin`.

    Within the block the errors e solve e_k = d_k + sum over earlier rows, by forward substitution
    of the block of U, so that the feedback is exact between blocks.
    """
    inner = feedback[begin:end, begin:end] + np.eye(end - begin, dtype=np.float32)
    carry = np.linalg.solve(inner.T.astype(np.float64), np.eye(end - begin)).astype(np.float32)
    link = feedback[begin:end, end:].T @ carry
    for index, part in enumerate(coded):
        targets[index, end:] -= link @ (targets[index, begin:end] - part.values)


def _columns(
    targets: np.ndarray, factor: np.ndarray, formats: Sequence[Format], dtype: Dtype
) -> list[Coded]:
    """Code `targets` (formats, rows, columns)."""
    count, rows, width = targets.shape
    work = np.array(targets.swapaxes(1, 2), order="C")
    codes = np.empty((count, width, rows), np.uint8)
    most = np.array([[2.0**f.bits - 1] for f in formats], np.float32)
    scales = [np.empty((width // f.group_size, rows), np.float32) for f in formats]
    biases = [np.empty((width // f.group_size, rows), np.float32) for f in formats]
    scale, bias = np.empty((count, rows), np.float32), np.empty((count, rows), np.float32)
    diagonal = np.diagonal(factor)
    for begin in range(0, width, _COLUMNS):
        end = begin + _COLUMNS
        for index, format_ in enumerate(formats):
            if begin % format_.group_size == 0:
                columns = slice(begin, begin + format_.group_size)
                importance = 1 / np.square(diagonal[columns])
                fitted = fit_groups(work[index, columns], format_.bits, dtype, importance)
                group = begin // format_.group_size
                scale[index], bias[index] = scales[index][group], biases[index][group] = fitted
        block = slice(begin, end)
        _block(work[:, block], codes[:, block], factor[block, block], (scale, bias, most))
        if end < width:
            work[:, end:] -= factor[block, end:].T @ work[:, block]
    return [
        Coded(np.ascontiguousarray(codes[i].T), scales[i].T.copy(), biases[i].T.copy())
        for i in range(count)
    ]


def _block(
    work: np.ndarray,
    codes: np.ndarray,
    factor: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Code `work` (formats, columns, rows) in order; leaves the scaled errors in it."""
    scale, bias, most = grid
    inverse = 1 / scale
    for j in range(work.shape[1]):
        column = work[:, j]
        code = np.clip(np.rint((column - bias) * inverse), 0, most)
        codes[:, j] = code
        error = (column - (code * scale + bias)) / factor[j, j]
        work[:, j] = error
        if j + 1 < work.shape[1]:
            work[:, j + 1 :] -= factor[j, j + 1 :, None] * error[:, None]


def _stacked(parts: Sequence[Coded]) -> Coded:
    if len(parts) == 1:
        return parts[0]
    return Coded(
        np.concatenate([p.codes for p in parts]),
        np.concatenate([p.scales for p in parts]),
        np.concatenate([p.biases for p in parts]),
    )
