"""Coordinate descent on codes, scales and biases, after the pass of error feedback.

Each code in turn becomes the best one given every other error, as in QuantEase (arXiv 2309.01885),
here against the two-sided objective tr(B dW A dW^T) of YAQA (arXiv 2505.22988) as well; scales and
biases are refitted whenever a sweep enters their group. Only what lowers the objective is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from app.core.dtypes import Dtype
from app.core.formats import Format
from workers.encoders.coded import Coded
from workers.encoders.quadratic import Term, accepted, curvature
from workers.encoders.refit import refit

__all__ = ["descend"]

_COLUMNS: Final = 32
"""Columns swept between two updates of all that follow: the smallest group size."""
_COUPLED_ROWS: Final = 32
"""Rows swept side by side where B couples them; other rows wait for their errors."""
_FREE_ROWS: Final = 512
_SWEEPS: Final = ((1024, 3), (2048, 2))
"""Sweeps up to an input width, one beyond: a sweep costs up to twice the feedback pass, whose cost
a weight grows with the width; the first gains two thirds of what three do."""


def descend(
    weight: np.ndarray,
    coded: Sequence[Coded],
    formats: Sequence[Format],
    dtype: Dtype,
    terms: Sequence[Term],
) -> list[Coded]:
    """Return `coded`, one for each of `formats`, with a lower or equal objective of `terms`.

    `weight` is float32 (out, in); the terms are damped, so that their curvature is positive.
    """
    state = _State(weight, coded, formats, dtype)
    out, width = weight.shape
    step = _COUPLED_ROWS if any(term.is_coupled for term in terms) else _FREE_ROWS
    for _ in range(next((count for most, count in _SWEEPS if width <= most), 1)):
        for begin in range(0, out, step):
            _Sweep(state, terms, slice(begin, min(begin + step, out))).run()
    return state.coded()


class _State:
    """All formats side by side: errors and codes (formats, in, out), grids (groups, out)."""

    def __init__(
        self, weight: np.ndarray, coded: Sequence[Coded], formats: Sequence[Format], dtype: Dtype
    ) -> None:
        self.formats, self.dtype = formats, dtype
        self.error = np.stack([(part.values - weight).T for part in coded])
        self.codes = np.stack([part.codes.T for part in coded])
        self.scales = [part.scales.T.copy() for part in coded]
        self.biases = [part.biases.T.copy() for part in coded]

    def coded(self) -> list[Coded]:
        grids = zip(self.codes, self.scales, self.biases, strict=True)
        return [Coded(*(np.ascontiguousarray(part.T) for part in grid)) for grid in grids]


class _Sweep:
    """One pass over all columns of some rows."""

    def __init__(self, state: _State, terms: Sequence[Term], rows: slice) -> None:
        self.state, self.rows = state, rows
        gradients = [term.gradient(state.error, rows) for term in terms]
        self.gradient: np.ndarray = sum(gradients[1:], gradients[0])
        self.terms = [term.block(rows) for term in terms]
        self.codes = state.codes[..., rows].astype(np.float32)
        count = len(state.formats)
        self.scale = np.ones((count, self.codes.shape[-1]), np.float32)
        self.most = np.array([[2.0**f.bits - 1] for f in state.formats], np.float32)

    def run(self) -> None:
        """Refit each group as it is entered, then sweep its codes."""
        for begin in range(0, self.codes.shape[1], _COLUMNS):
            for index, format_ in enumerate(self.state.formats):
                if begin % format_.group_size == 0:
                    self._refit(index, begin, format_.group_size)
            self._sweep(slice(begin, begin + _COLUMNS))
        self.state.codes[..., self.rows] = self.codes

    def _refit(self, index: int, begin: int, size: int) -> None:
        own, columns = slice(index, index + 1), slice(begin, begin + size)
        group, state = begin // size, self.state
        scale = state.scales[index][group, self.rows]
        bias = state.biases[index][group, self.rows]
        gradient, codes = self.gradient[index, columns], self.codes[index, columns]
        new = refit(self.terms, columns, gradient, codes, grid=(scale, bias), dtype=state.dtype)
        step = ((new[0] - scale) * codes + (new[1] - bias))[None]
        keep = accepted(self.terms, columns, gradient[None], step)
        scale[:], bias[:] = np.where(keep, new, (scale, bias))
        self.scale[index] = scale
        self._take(own, columns, step * keep[:, None], begin)

    def _sweep(self, columns: slice) -> None:
        before = self.codes[:, columns]
        codes, step = self._proposed(columns)
        keep = accepted(self.terms, columns, self.gradient[:, columns], step)[:, None]
        self.codes[:, columns] = np.where(keep, codes, before)
        self._take(slice(None), columns, step * keep, columns.stop)

    def _proposed(self, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return codes and their change in value, each row by itself."""
        gradient, codes = self.gradient[:, columns].copy(), self.codes[:, columns].copy()
        steps = np.empty_like(codes)
        bends = curvature(self.terms, columns)
        reach = np.where(bends > 0, 1 / np.maximum(bends, np.float32(1e-37)), 0)
        sides = [(t.columns[columns, columns], t.row_diagonal) for t in self.terms]
        for j in range(codes.shape[1]):
            wanted = codes[:, j] - gradient[:, j] * reach[j] / self.scale
            code = np.clip(np.rint(wanted), 0, self.most)
            step = steps[:, j] = (code - codes[:, j]) * self.scale
            codes[:, j] = code
            for inner, diagonal in sides:
                gradient[:, j + 1 :] += inner[j, j + 1 :, None] * (step * diagonal)[:, None]
        return codes, steps

    def _take(self, own: slice, columns: slice, step: np.ndarray, since: int) -> None:
        """Add a step to the errors of these columns; renew the gradient of columns from `since`."""
        self.state.error[own, columns, self.rows] += step
        for term in self.terms:
            self.gradient[own, since:] += term.columns[since:, columns] @ term.coupled(step)
