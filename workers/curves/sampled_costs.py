"""What rows of a weight are predicted to cost, without coding them.

The error of a group of weights is in proportion to its range squared; the cost of a row to the sum
of those weighted with A's diagonal, times the row's entry on B's diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import LOSSY_FORMATS
from bitbudget.workers.fisher.statistics import KroneckerTerm, ModuleStatistics
from bitbudget.workers.native.arrays import as_float32

__all__ = ["Frame", "Part", "Predicted", "diagonal_of", "frame_of"]

_GROUPS: Final = tuple(sorted({format_.group_size for format_ in LOSSY_FORMATS}))
"""Group sizes of all formats."""
_CHUNK_WEIGHTS: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Part:
    """One matrix (out, in) of a module, in the type that carries `dtype`; `index` is its expert."""

    index: tuple[int, ...]
    weight: npt.NDArray[Any]
    dtype: Dtype


@dataclass(frozen=True, slots=True)
class Predicted:
    """What each unit of rows is predicted to have of something: float64 (units, group sizes)."""

    units: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """What all units have, (group sizes,)."""
        result: np.ndarray = self.units.sum(0)
        return result

    @property
    def shares(self) -> np.ndarray:
        """Each unit's share of it, (units,)."""
        sizes = self.units[:, -1]
        return np.asarray(sizes / max(float(sizes.sum()), 1e-300))


@dataclass(frozen=True, slots=True)
class Frame:
    """All units of `unit` neighbouring rows of a module, in order.

    `experts` and `starts` (units,) say where each lies. `cost` is what its error costs, `squared`
    its squared error, both up to a factor that a format of one of the `groups` has; `norm` is the
    sum of squares of the weight.
    """

    experts: np.ndarray
    starts: np.ndarray
    unit: int
    out: int
    groups: Sequence[int]
    cost: Predicted
    squared: Predicted
    norm: float

    def rows_of(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of some units of one expert, and for each row which of them it is in."""
        spans = [np.arange(b, min(b + self.unit, self.out)) for b in self.starts[units]]
        owner = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        return np.concatenate(spans), owner


def frame_of(parts: Sequence[Part], statistics: ModuleStatistics, unit: int) -> Frame:
    """Return all units of `unit` rows of a module's matrices with what is known of them."""
    out, width = parts[0].weight.shape
    starts = np.arange(0, out, unit)
    costs, errors, norm = [], [], 0.0
    for part in parts:
        cost, squared, power = _predict(part, statistics)
        costs.append(np.add.reduceat(cost, starts, axis=1).T)
        errors.append(np.add.reduceat(squared, starts, axis=1).T)
        norm += power
    return Frame(
        np.repeat(np.arange(len(parts)), len(starts)),
        np.tile(starts, len(parts)),
        unit,
        out,
        _groups_of(width),
        Predicted(np.concatenate(costs)),
        Predicted(np.concatenate(errors)),
        norm,
    )


def diagonal_of(term: KroneckerTerm) -> np.ndarray:
    """Return B's diagonal (out,) of one expert's term."""
    return np.diagonal(term.rows) if term.rows.ndim > 1 else term.rows


def _groups_of(width: int) -> list[int]:
    return [size for size in _GROUPS if width % size == 0]


def _predict(part: Part, statistics: ModuleStatistics) -> tuple[np.ndarray, np.ndarray, float]:
    """Return each row's cost and squared error, (group sizes, out), and the sum of squares."""
    terms = [term.part(part.index) for term in statistics.terms]
    even = np.ones(part.weight.shape[1], np.float32)
    noise, power = _row_noise(part, [*(np.diagonal(term.columns) for term in terms), even])
    cost = np.zeros(noise.shape[1:])
    for own, term in zip(noise[:-1], terms, strict=True):
        cost += own * diagonal_of(term)
    return cost, noise[-1], power


def _row_noise(part: Part, importance: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the squared range of each row's groups, weighted, and the weight's sum of squares.

    The weight is widened a few rows at a time. float64 (kinds of importance, group sizes, out).
    """
    out, width = part.weight.shape
    groups = _groups_of(width)
    noise = np.zeros((len(importance), len(groups), out))
    shares = [[kind.reshape(-1, size).sum(1) for size in groups] for kind in importance]
    power = 0.0
    step = max(1, _CHUNK_WEIGHTS // width)
    for begin in range(0, out, step):
        rows = slice(begin, begin + step)
        values = as_float32(part.weight[rows], part.dtype)
        power += float(np.einsum("ij,ij->", values, values, dtype=np.float64))
        for at, squares in enumerate(_squared_ranges(values, groups)):
            for kind, by_size in zip(noise, shares, strict=True):
                kind[at, rows] = squares @ by_size[at]
    return noise, power


def _squared_ranges(values: np.ndarray, groups: Sequence[int]) -> list[np.ndarray]:
    """Return (max - min)^2 of the groups of each size, (rows, groups), the smallest size first."""
    high = low = values.reshape(len(values), -1, groups[0])
    while high.shape[-1] > 1:
        half = high.shape[-1] // 2
        high = np.maximum(high[..., :half], high[..., half:])
        low = np.minimum(low[..., :half], low[..., half:])
    found = [np.square(high - low)[..., 0]]
    for _ in groups[1:]:
        pairs = (len(values), -1, 2)
        high, low = high.reshape(pairs).max(-1), low.reshape(pairs).min(-1)
        found.append(np.square(high - low))
    return found
