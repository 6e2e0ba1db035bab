"""All limits of a problem as rows of one matrix: the bytes first, the side rows after them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.mckp.problem import MAX_TOTAL, Floats, Integers, Problem

__all__ = ["System"]


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """`weights` (rows, options) of the chosen options sum to `limits` (rows) at most."""

    problem: Problem
    names: tuple[str, ...]
    limits: Integers
    weights: Integers

    @classmethod
    def of(cls, problem: Problem, budget: int) -> System:
        """Gather the rows; InfeasibleBudgetError names one that no choice can meet alone."""
        limits = [budget, *(row.limit for row in problem.rows)]
        system = cls(
            problem=problem,
            names=("total of bytes", *(f"row {row.name!r}" for row in problem.rows)),
            limits=np.array([min(limit, MAX_TOTAL) for limit in limits], dtype=np.int64),
            weights=np.stack([problem.bytes, *(row.weights for row in problem.rows)]),
        )
        least = np.minimum.reduceat(system.weights, problem.offsets[:-1], axis=1).sum(axis=1)
        for name, limit, minimum in zip(system.names, limits, least.tolist(), strict=True):
            if limit < minimum:
                raise InfeasibleBudgetError(budget_bytes=limit, minimum_bytes=minimum, binding=name)
        return system

    @property
    def group_of(self) -> Integers:
        """The group of every option."""
        group: Integers = np.repeat(np.arange(self.problem.groups), np.diff(self.problem.offsets))
        return group

    @property
    def largest(self) -> Floats:
        """The largest sum of each row, at least 1."""
        sums = np.maximum.reduceat(self.weights, self.problem.offsets[:-1], axis=1).sum(axis=1)
        largest: Floats = np.maximum(sums, 1).astype(np.float64)
        return largest

    def left(self, choice: Integers) -> Integers:
        """What the rows have left; negative where a limit is broken."""
        used = [int(row.take(choice).sum()) for row in self.weights]
        return self.limits - np.array(used, dtype=np.int64)

    def is_feasible(self, choice: Integers) -> bool:
        """Whether every limit holds."""
        return bool((self.left(choice) >= 0).all())

    def cost(self, choice: Integers) -> float:
        """The sum of costs, correctly rounded."""
        return math.fsum(self.problem.costs[choice].tolist())

    def cheapest_per_group(self, key: Floats) -> Integers:
        """Return the option of least `key` in every group, the first of equals."""
        offsets = self.problem.offsets
        sizes = np.diff(offsets)
        if (sizes == sizes[0]).all():
            chosen: Integers = offsets[:-1] + np.argmin(key.reshape(sizes.size, -1), axis=1)
            return chosen
        least: NDArray[np.float64] = np.minimum.reduceat(key, offsets[:-1])
        places = np.flatnonzero(key == np.repeat(least, sizes))
        group = np.searchsorted(offsets, places, side="right") - 1
        is_first = np.ones(places.size, dtype=np.bool_)
        is_first[1:] = group[1:] != group[:-1]
        return places[is_first]
