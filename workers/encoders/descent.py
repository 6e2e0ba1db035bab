"""A weight coded by error feedback and then by coordinate descent, over the compiled kernels.

Each code in turn becomes the best one given every other error, as in QuantEase (arXiv 2309.01885),
here against the two-sided objective tr(B dW A dW^T) of YAQA (arXiv 2505.22988) as well; scales and
biases are refitted whenever a sweep enters their group. Only what lowers the objective is taken.

Every format is coded by itself, so that it has the same bits alone as among others.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.encoders.kernel_target import KernelTarget
from bitbudget.workers.encoders.quadratic import Term
from bitbudget.workers.native.arrays import address
from bitbudget.workers.native.loader import kernels
from bitbudget.workers.native.threads import default_threads

__all__ = ["DescentProblem", "code_weight", "curve_sweeps", "default_sweeps"]

_PANEL: Final = 32
"""Rows that the kernels work on side by side."""
_SCRATCH_PANELS: Final = 4
_BLOCK_ROWS: Final = 4096
"""Rows that a thread codes at a time where rows do not meet: a multiple of the panel."""
_SWEEPS: Final = ((1024, 8), (2048, 4))
"""Sweeps up to an input width, two beyond: a sweep costs two to three times the feedback pass, and
that more a weight the wider it is. Three leave 1.5 % of the objective to 16, eight 0.3 %; moving
two codes at once after that gains 0.5 to 1 %, and is not done."""
_CURVE_SWEEPS: Final = 3
"""Sweeps behind a curve: what more of them would gain is the same share in every format."""
_WORKING_BYTES: Final = 1 << 30
"""Errors and codes of all formats that are coded at the same time."""


def default_sweeps(width: int) -> int:
    """Return how often the descent sweeps a weight of this input width."""
    return next((count for most, count in _SWEEPS if width <= most), 2)


def curve_sweeps(width: int) -> int:
    """Return how often the descent sweeps where only the error counts, not the codes."""
    return min(_CURVE_SWEEPS, default_sweeps(width))


def code_weight(
    weight: np.ndarray,
    formats: Sequence[Format],
    dtype: Dtype,
    feedback: Feedback,
    terms: Sequence[Term],
    *,
    sweeps: int | None = None,
) -> list[Coded]:
    """Return `weight` coded in each of the integer `formats`.

    Args:
        weight: float32 (out, in).
        formats: Of integer codes, whose groups divide the input width.
        dtype: What scales and biases are stored in.
        feedback: Of the feedback pass.
        terms: One or two, damped so that their curvature is positive: the descent's objective.
        sweeps: Of the descent; by default as many as pay at this width.
    """
    count = default_sweeps(weight.shape[1]) if sweeps is None else sweeps
    meet = feedback.links is not None or any(term.is_coupled for term in terms)
    if not meet and len(weight) > _BLOCK_ROWS:
        return _in_blocks(weight, formats, dtype, feedback, terms, sweeps=count)
    problem = DescentProblem(weight, dtype, feedback, terms)
    together = max(1, min(default_threads(), _WORKING_BYTES // (5 * max(weight.size, 1))))
    if together == 1 or len(formats) == 1:
        return [problem.code(format_, count) for format_ in formats]
    kernels()  # loaded, and if need be compiled, by one thread
    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(lambda format_: problem.code(format_, count), formats))


def _in_blocks(
    weight: np.ndarray,
    formats: Sequence[Format],
    dtype: Dtype,
    feedback: Feedback,
    terms: Sequence[Term],
    *,
    sweeps: int,
) -> list[Coded]:
    """Return a weight whose rows do not meet, coded in blocks of rows on all threads."""

    def block(begin: int) -> list[Coded]:
        own = slice(begin, begin + _BLOCK_ROWS)
        parts = [Term(term.columns, term.rows[own]) for term in terms]
        problem = DescentProblem(weight[own], dtype, feedback, parts)
        return [problem.code(format_, sweeps) for format_ in formats]

    kernels()  # loaded, and if need be compiled, by one thread
    with ThreadPoolExecutor(default_threads()) as pool:
        blocks = list(pool.map(block, range(0, len(weight), _BLOCK_ROWS)))
    return [Coded.joined(of_format) for of_format in zip(*blocks, strict=True)]


class DescentProblem:
    """What all formats share, with rows padded to whole panels by rows of zeros."""

    def __init__(
        self, weight: np.ndarray, dtype: Dtype, feedback: Feedback, terms: Sequence[Term]
    ) -> None:
        self.dtype, self.out = dtype, len(weight)
        self.rows = -(-self.out // _PANEL) * _PANEL
        self.weight = np.zeros((weight.shape[1], self.rows), np.float32)
        self.weight[:, : self.out] = weight.T
        self.pull = np.ascontiguousarray(feedback.pull, np.float32)
        self.importance = np.ascontiguousarray(feedback.importance, np.float32)
        self.links = None if feedback.links is None else self._padded(feedback.links)
        self.factors: list[np.ndarray | None] = []
        for term in terms:
            rows = self._padded(term.rows) if term.is_coupled else None
            columns = np.ascontiguousarray(term.columns, np.float32)
            self.factors += [columns, rows, self._padded(term.row_diagonal)]

    def _padded(self, values: np.ndarray) -> np.ndarray:
        missing = self.rows - self.out
        padded = np.pad(np.asarray(values, np.float32), [(0, missing)] * values.ndim)
        return np.ascontiguousarray(padded)

    def code(self, format_: Format, sweeps: int) -> Coded:
        """Return the weight in one format."""
        target = KernelTarget.new(self.weight.shape, format_, self.dtype)
        left = np.empty_like(self.weight)
        scratch = np.empty((_SCRATCH_PANELS, len(self.weight), _PANEL), np.float32)
        feed_back = kernels().bitbudget_feed_back
        feed_back.restype = None
        feed_back(
            target.reference,
            address(self.weight),
            address(self.pull),
            address(self.importance),
            None if self.links is None else address(self.links),
            address(left),
            address(scratch),
        )
        if sweeps:
            self.descend(target, sweeps, left)
        return target.coded(self.out)

    def descend(self, target: KernelTarget, sweeps: int, left: np.ndarray) -> None:
        """Move the codes of `target` by so many sweeps; `left` is overwritten with its errors."""
        np.subtract(target.values, self.weight, out=left)
        scratch = np.empty((_SCRATCH_PANELS, len(self.weight), _PANEL), np.float32)
        factors = (ctypes.c_void_p * len(self.factors))(
            *(None if part is None else part.ctypes.data for part in self.factors)
        )
        count = len(self.factors) // 3
        descend = kernels().bitbudget_descend
        descend.restype = None
        descend(target.reference, count, factors, sweeps, address(left), address(scratch))
