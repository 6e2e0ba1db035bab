"""The LP relaxation at one budget: the break, its price, and the choice on the way to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitbudget.app.core.mckp.prepare import Prepared
from bitbudget.app.core.mckp.problem import Integers

__all__ = ["Break", "break_at", "greedy_choice"]


@dataclass(frozen=True, slots=True)
class Break:
    """Where the budget stops the steepest steps.

    The first `step` steps fit and leave `left_bytes`; the next one does not. `price` is the slope
    of that step (cost per byte), 0 when every step fits. The LP optimum is the cost after `step`
    steps less `price * left_bytes` (Sinha and Zoltners, The multiple-choice knapsack problem,
    Operations Research 27, 1979).
    """

    step: int
    price: float
    left_bytes: int

    @property
    def greedy_gap(self) -> float:
        """Cost of the choice after `step` steps above the LP optimum."""
        return self.price * self.left_bytes


def break_at(prepared: Prepared, budget: int) -> Break:
    """Return the break of a budget that is at least `prepared.minimum_bytes`.

    Bytes only move in multiples of `prepared.unit`, so the budget is rounded down to one.
    """
    usable = min(budget, prepared.cheapest_bytes) - prepared.minimum_bytes
    usable -= usable % prepared.unit
    reach = prepared.minimum_bytes + usable
    step = int(np.searchsorted(prepared.reached_bytes, reach, side="right")) - 1
    if step == prepared.slope.size:
        return Break(step, 0.0, 0)
    left = reach - int(prepared.reached_bytes[step])
    return Break(step, float(prepared.slope[step]), left)


def greedy_choice(prepared: Prepared, step: int) -> Integers:
    """Return the option of every group after the first `step` steps.

    A group's steps come in hull order, and NumPy leaves the last of repeated assignments.
    """
    choice = prepared.start.copy()
    choice[prepared.step_group[:step]] = prepared.step_end[:step]
    return choice
