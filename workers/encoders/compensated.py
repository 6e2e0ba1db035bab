"""Error feedback: codes of one column correct for the errors of the columns before it.

GPTQ (arXiv 2210.17323): minimise tr(dW A dW^T) column by column with the Cholesky factor of A^-1.
YAQA (arXiv 2505.22988): minimise tr(B dW A dW^T); blocks of rows are coded one after the other, and
each block's target is moved by the errors of the blocks before it.

All formats of a module share A, so they are coded side by side, stacked along the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from app.core.dtypes import Dtype
from app.core.formats import Format
from workers.encoders.groups import fit_groups

__all__ = ["Coded", "compensate", "inverse_factor", "row_feedback"]

_COLUMNS: Final = 32
"""Columns coded between two updates of all that follow: the smallest group size."""
_ROWS: Final = 64
"""Rows coded side by side before their errors are fed to the rows after them."""
_WORKING_BYTES: Final = 1 << 28
"""Working copy of the weights of all formats coded together."""
_DAMPING: Final = 0.01
"""Added to A's diagonal, relative to its mean (GPTQ's default)."""
_MOST_DAMPING: Final = 1e3


@dataclass(frozen=True, slots=True)
class Coded:
    """A weight in one format: codes uint8 (out, in), scales and biases float32 (out, groups)."""

    codes: np.ndarray
    scales: np.ndarray
    biases: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The float32 weight that is stored: scale * code + bias."""
        out, groups = self.scales.shape
        codes = self.codes.reshape(out, groups, -1).astype(np.float32)
        values = codes * self.scales[..., None] + self.biases[..., None]
        result: np.ndarray = values.reshape(out, -1)
        return result


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
) -> dict[Format, Coded]:
    """Code `weight` (float32 (out, in)) in every affine format of `formats`.

    `factor` is `inverse_factor` of A; `feedback` is `row_feedback` of B, or None for GPTQ.
    """
    together = max(1, _WORKING_BYTES // (4 * weight.size))
    result: dict[Format, Coded] = {}
    for start in range(0, len(formats), together):
        chosen = formats[start : start + together]
        result |= dict(
            zip(chosen, _compensate(weight, factor, chosen, dtype, feedback), strict=True)
        )
    return result


def _compensate(
    weight: np.ndarray,
    factor: np.ndarray,
    formats: Sequence[Format],
    dtype: Dtype,
    feedback: np.ndarray | None,
) -> list[Coded]:
    out = len(weight)
    step = out if feedback is None else _ROWS
    targets = np.repeat(weight[None], len(formats), axis=0)
    parts: list[list[Coded]] = [[] for _ in formats]
    for begin in range(0, out, step):
        end = min(begin + step, out)
        coded = _columns(targets[:, begin:end], factor, formats, dtype)
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
    count, rows, width = targets.shape
    work = np.ascontiguousarray(targets.reshape(count * rows, width).T)
    codes = np.empty((width, count * rows), np.uint8)
    most = np.repeat(np.array([2.0**f.bits - 1 for f in formats], np.float32), rows)
    scales = [np.empty((width // f.group_size, rows), np.float32) for f in formats]
    biases = [np.empty((width // f.group_size, rows), np.float32) for f in formats]
    scale, bias = np.empty(count * rows, np.float32), np.empty(count * rows, np.float32)
    diagonal = np.diagonal(factor)
    for begin in range(0, width, _COLUMNS):
        end = begin + _COLUMNS
        for index, format_ in enumerate(formats):
            if begin % format_.group_size == 0:
                own = slice(index * rows, (index + 1) * rows)
                columns = slice(begin, begin + format_.group_size)
                importance = 1 / np.square(diagonal[columns])
                fitted = fit_groups(work[columns, own], format_.bits, dtype, importance)
                group = begin // format_.group_size
                scale[own], bias[own] = scales[index][group], biases[index][group] = fitted
        _block(work[begin:end], codes[begin:end], factor[begin:end, begin:end], (scale, bias, most))
        if end < width:
            work[end:] -= factor[begin:end, end:].T @ work[begin:end]
    coded = codes.reshape(width, count, rows)
    return [
        Coded(np.ascontiguousarray(coded[:, i].T), scales[i].T.copy(), biases[i].T.copy())
        for i in range(count)
    ]


def _block(
    work: np.ndarray,
    codes: np.ndarray,
    factor: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Code the columns `work` (columns, rows) in order; leaves their scaled errors in `work`."""
    scale, bias, most = grid
    inverse = 1 / scale
    for j in range(len(work)):
        column = work[j]
        code = np.clip(np.rint((column - bias) * inverse), 0, most)
        codes[j] = code
        error = (column - (code * scale + bias)) / factor[j, j]
        work[j] = error
        if j + 1 < len(work):
            work[j + 1 :] -= factor[j, j + 1 :, None] * error


def _stacked(parts: Sequence[Coded]) -> Coded:
    if len(parts) == 1:
        return parts[0]
    return Coded(
        np.concatenate([p.codes for p in parts]),
        np.concatenate([p.scales for p in parts]),
        np.concatenate([p.biases for p in parts]),
    )
