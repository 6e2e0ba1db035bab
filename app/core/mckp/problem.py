"""A multiple-choice knapsack: choose one option per group, least cost, within limits on bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["MAX_OPTIONS", "MAX_TOTAL", "Floats", "Integers", "Problem", "Row"]

MAX_OPTIONS: Final = 10_000_000
"""More options than this are refused: preparation needs about 100 bytes for each."""

MAX_TOTAL: Final = 2**60
"""Bound on every sum of bytes or weights, so that 64-bit integers never overflow."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A side condition: the weights of the chosen options sum to `limit` at most.

    `weights` has one non-negative entry per option, in the order of `Problem.bytes`.
    """

    name: str
    limit: int
    weights: Integers


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Groups of options in one flat order: group i owns `offsets[i]:offsets[i + 1]`.

    `bytes` (int64) and `costs` (float64) have one non-negative finite entry per option.

        two_groups = Problem(np.array([0, 2, 3]), np.array([4, 8, 5]), np.array([0.3, 0.1, 0.0]))
        solve_problem(two_groups, budget=13).choice  # array([1, 2])
    """

    offsets: Integers
    bytes: Integers
    costs: Floats
    rows: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_numbers("bytes", self.bytes)
        _check_numbers("costs", self.costs)
        for row in self.rows:
            _check_numbers(f"row {row.name!r}", row.weights)
            _check_total(f"row {row.name!r}", self, row.weights)
        _check_total("bytes", self, self.bytes)
        _check_costs(self)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.offsets.size - 1

    @property
    def options(self) -> int:
        """Number of options in all groups."""
        return self.bytes.size

    @classmethod
    def from_matrix(cls, bytes_: NDArray[np.integer], costs: Floats) -> Problem:
        """Make a problem of equally many options per group from (groups, options) matrices."""
        groups, width = bytes_.shape
        offsets = np.arange(groups + 1, dtype=np.int64) * width
        return cls(
            offsets, bytes_.astype(np.int64).ravel(), np.asarray(costs, dtype=np.float64).ravel()
        )


def _refuse(where: str, found: str, expected: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(where=where, found=found, expected=expected, remedy=remedy)


def _check_sizes(problem: Problem) -> None:
    if problem.options > MAX_OPTIONS:
        raise _refuse(
            "problem",
            f"{problem.options} options",
            f"at most {MAX_OPTIONS} options",
            "drop dominated options or merge groups first",
        )
    sizes = np.diff(problem.offsets)
    if sizes.size == 0:
        raise _refuse("groups", "no group", "at least one group", "add a group")
    if (sizes <= 0).any():
        empty = int(np.argmin(sizes > 0))
        raise _refuse(
            f"group {empty}", "no option", "at least one option", "add an option or drop the group"
        )
    lengths = {problem.bytes.size, problem.costs.size, int(problem.offsets[-1])}
    lengths |= {row.weights.size for row in problem.rows}
    if len(lengths) > 1 or problem.offsets[0] != 0:
        raise _refuse(
            "problem",
            f"arrays of {sorted(lengths)} entries",
            "one entry per option in every array",
            "make bytes, costs and weights as long as the last offset",
        )


def _check_numbers(where: str, values: Integers | Floats) -> None:
    good = values >= 0
    if values.dtype.kind == "f":
        good &= np.isfinite(values)
    if not good.all():
        index = int(np.argmin(good))
        raise _refuse(
            f"{where}, option {index}",
            f"{values[index]!r}",
            "a finite number of at least 0",
            "correct this entry",
        )


def _check_total(where: str, problem: Problem, values: Integers) -> None:
    total = float(np.maximum.reduceat(values, problem.offsets[:-1]).astype(np.float64).sum())
    if total >= MAX_TOTAL:
        raise _refuse(
            where,
            f"a sum of up to {total:.3g}",
            f"less than {MAX_TOTAL}",
            "count in a larger unit",
        )


def _check_costs(problem: Problem) -> None:
    total = float(np.maximum.reduceat(problem.costs, problem.offsets[:-1]).sum())
    if not np.isfinite(total):
        raise _refuse(
            "costs", "a sum beyond floating point", "a finite sum", "scale all costs down"
        )
