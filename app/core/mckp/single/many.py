"""Many budgets of one problem at once: a certified cost for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.mckp.problem import Floats, Integers
from bitbudget.app.core.mckp.result import NO_LIMITS, Limits
from bitbudget.app.core.mckp.single.prepare import Prepared
from bitbudget.app.core.mckp.single.solve import solve_prepared

__all__ = ["ManySolutions", "solve_many"]

_NEAR: Final = 512
"""Steps on each side of a break that may be taken or given back."""

_ROUNDS: Final = 8
"""Steps taken beyond a break."""

_NEVER: Final = 2**62

_ROUNDING: Final = 1e-12
"""Relative rounding of the running sums over all steps."""


@dataclass(frozen=True, slots=True, eq=False)
class ManySolutions:
    """Entry i belongs to budget i; `bound` <= the optimum <= `objective`."""

    objective: Floats
    bound: Floats
    bytes: Integers

    @property
    def gap(self) -> Floats:
        """(objective - bound) / objective, 0 when both are 0."""
        return (self.objective - self.bound) / np.where(self.objective > 0, self.objective, 1.0)


def solve_many(
    prepared: Prepared, budgets: Sequence[int], limits: Limits = NO_LIMITS
) -> ManySolutions:
    """Return the cost, bound and bytes of a good choice for every budget, in one pass.

    A budget whose gap after exchanges near its break is above `limits.relative_gap` is searched as
    `solve_prepared` does.

    Raises InfeasibleBudgetError for the smallest budget when it is below the least bytes.
    """
    if min(budgets) < prepared.minimum_bytes:
        raise InfeasibleBudgetError(
            budget_bytes=min(budgets),
            minimum_bytes=prepared.minimum_bytes,
            binding="total of bytes",
        )
    many = _near_breaks(prepared, budgets)
    for index in np.flatnonzero(many.gap > limits.relative_gap).tolist():
        solution = solve_prepared(prepared, int(budgets[index]), limits)
        many.objective[index], many.bound[index] = solution.objective, solution.bound
        many.bytes[index] = solution.bytes
    return many


def _near_breaks(prepared: Prepared, budgets: Sequence[int]) -> ManySolutions:
    """Return the LP bounds and the better of two ways to fill what the breaks leave."""
    most = prepared.cheapest_bytes
    reach = np.array([min(budget, most) for budget in budgets], dtype=np.int64)
    step = np.searchsorted(prepared.reached_bytes, reach, side="right") - 1
    least = math.fsum(prepared.costs[prepared.offsets[1:] - 1].tolist())
    objective = least + prepared.excess_cost[step]
    bytes_ = prepared.reached_bytes[step].copy()
    many = ManySolutions(objective, objective.copy(), bytes_)
    inner = np.flatnonzero(step < prepared.slope.size)
    if inner.size:
        step, left = step[inner], (reach - bytes_)[inner]
        many.bound[inner] = _rounded_down(objective[inner], prepared.slope[step] * left)
        saved, moved = _best_exchange(prepared, step, left)
        objective[inner] -= saved
        bytes_[inner] += moved
    return many


def _rounded_down(objective: Floats, gap: Floats) -> Floats:
    return np.maximum(objective - gap - _ROUNDING * objective, 0.0)


def _best_exchange(prepared: Prepared, step: Integers, left: Integers) -> tuple[Floats, Integers]:
    """Return the larger saving of filling at once, and of filling after giving a step back."""
    before, after = _neighbours(prepared)
    none = np.full(step.size, -1)
    zero = np.zeros(step.size)
    saved, moved = _fill(prepared, before, _Start(step, left, zero, none))
    swapped = _swap(prepared, after, step, left)
    other_saved, other_left = _fill(prepared, before, swapped)
    better = other_saved > saved
    return np.where(better, other_saved, saved), left - np.where(better, other_left, moved)


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """Where filling begins: bytes left, cost saved so far, the step given back (or -1)."""

    step: Integers
    left: Integers
    saved: Floats
    given_back: Integers


def _neighbours(prepared: Prepared) -> tuple[Integers, Integers]:
    """Return the previous and the next step of the same group for every step."""
    count = prepared.slope.size
    arrives = np.full(prepared.bytes.size, -1)
    arrives[prepared.step_end] = np.arange(count)
    leaves = np.full(prepared.bytes.size, count)
    leaves[prepared.step_start] = np.arange(count)
    return arrives[prepared.step_start], leaves[prepared.step_end]


def _fill(prepared: Prepared, before: Integers, start: _Start) -> tuple[Floats, Integers]:
    """Take steps beyond the break, each time the one that saves most; return savings and left."""
    count = prepared.slope.size
    steps = start.step[:, None] + np.arange(_NEAR)
    inside = steps < count
    steps = np.minimum(steps, count - 1)
    previous = before[steps]
    free = inside & (previous < start.step[:, None]) & (previous != start.given_back[:, None])
    free[start.given_back >= 0, 0] = False
    bytes_ = np.where(free, prepared.step_bytes[steps], _NEVER)
    saving = prepared.slope[steps] * np.where(free, bytes_, 0)
    rows = np.arange(start.step.size)
    left, saved = start.left.copy(), start.saved.copy()
    for _ in range(_ROUNDS):
        gain = np.where(bytes_ <= left[:, None], saving, -1.0)
        best = np.argmax(gain, axis=1)
        fits = gain[rows, best] > 0
        left -= np.where(fits, bytes_[rows, best], 0)
        saved += np.where(fits, gain[rows, best], 0.0)
        bytes_[rows, best] = _NEVER
    return saved, left


def _swap(prepared: Prepared, after: Integers, step: Integers, left: Integers) -> _Start:
    """Take the step at the break and give back the one before it that costs least."""
    taken = prepared.step_bytes[step]
    steps = step[:, None] - 1 - np.arange(_NEAR)
    inside = steps >= 0
    steps = np.maximum(steps, 0)
    bytes_ = prepared.step_bytes[steps]
    fits = inside & (bytes_ >= (taken - left)[:, None]) & (after[steps] > step[:, None])
    loss = np.where(fits, prepared.slope[steps] * bytes_, np.inf)
    best = np.argmin(loss, axis=1)
    rows = np.arange(step.size)
    possible = np.isfinite(loss[rows, best])
    saved = prepared.slope[step] * taken - np.where(possible, loss[rows, best], np.inf)
    return _Start(
        step,
        np.where(possible, left + bytes_[rows, best] - taken, 0),
        saved,
        steps[rows, best],
    )
