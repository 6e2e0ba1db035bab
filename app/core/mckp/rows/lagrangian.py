"""The Lagrangian dual of several rows, by cutting planes.

For prices u >= 0 of the rows, `sum_groups min (cost + u . weights) - u . limits` is below every
feasible choice's cost. It is concave in u: each evaluation gives a plane above it, and the best
price of the planes is tried next (Kelley, The cutting-plane method for solving convex programs,
Journal of SIAM 8, 1960), inside a box that grows while the best price lies on its edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from ortools.linear_solver import pywraplp

from bitbudget.app.core.mckp.problem import Floats, Integers
from bitbudget.app.core.mckp.result import Limits
from bitbudget.app.core.mckp.rows.system import System

__all__ = ["ROUNDING", "Dual", "maximise_dual"]

_CLOSE: Final = 1e-9
_MOST_CUTS: Final = 120
_GROWTH: Final = 8.0
_MOST_GROWTH: Final = 60

ROUNDING: Final = 1e-13
"""Relative rounding of one evaluation of the dual."""


@dataclass(slots=True)
class Dual:
    """The best prices found, the bound they prove, the choice there, feasible ones, all `tried`.

    `is_contradiction` says that the bound exceeds the cost of every choice: no choice is feasible.
    """

    prices: Floats
    bound: float
    choice: Integers
    feasible: list[Integers] = field(default_factory=list)
    tried: list[Integers] = field(default_factory=list)
    is_contradiction: bool = False


def maximise_dual(
    system: System, first: Floats, limits: Limits, known: Sequence[Integers] = ()
) -> Dual:
    """Return near-optimal prices, beginning at `first`, with the planes of `known` choices."""
    scale = 1.0 / system.largest
    dual = Dual(first, -np.inf, np.empty(0, dtype=np.int64))
    ceiling = _largest_cost(system)
    master = _Master(system.limits.size, max(float(first @ system.limits), 1e-9 * ceiling, 1e-300))
    box = 4 * max(float((first / scale).max()), 1e-6 * ceiling, 1e-300)
    for choice in known:
        cost = float(system.problem.costs[choice].sum())
        master.add(cost, system.left(choice) * scale)
    prices, growths = first, 0
    for _ in range(_MOST_CUTS):
        cost, left = _evaluate(system, prices, dual)
        if dual.bound > ceiling * (1 + _CLOSE):
            dual.is_contradiction = True
            break
        if limits.is_over():
            break
        master.add(cost, left * scale)
        answer = master.solve(box)
        if answer is None:
            break
        value, scaled = answer
        if (scaled >= box * (1 - _CLOSE)).any() and growths < _MOST_GROWTH:
            box *= _GROWTH
            growths += 1
        elif value - dual.bound <= _CLOSE * abs(dual.bound):
            break
        prices = scaled * scale
    return dual


def _evaluate(system: System, prices: Floats, dual: Dual) -> tuple[float, Floats]:
    """Evaluate the dual at `prices`; return cost and what is left of the choice there."""
    problem = system.problem
    key = problem.costs + prices @ system.weights
    choice = system.cheapest_per_group(key)
    cost, left = float(problem.costs[choice].sum()), system.left(choice)
    room = float(prices @ left)
    size = cost + float(prices @ system.limits)
    value = cost - room - ROUNDING * size
    if value > dual.bound:
        dual.prices, dual.bound, dual.choice = prices, value, choice
    dual.tried.append(choice)
    if (left >= 0).all():
        dual.feasible.append(choice)
    return cost, left.astype(np.float64)


def _largest_cost(system: System) -> float:
    return float(np.maximum.reduceat(system.problem.costs, system.problem.offsets[:-1]).sum())


class _Master:
    """The linear program over the planes found so far.

    Rows are scaled by their largest sum and everything else by `unit`, a cost of the size of the
    bound, so that the solver's absolute tolerances fit any unit of cost.
    """

    def __init__(self, rows: int, unit: float) -> None:
        self._unit = unit
        self._solver = pywraplp.Solver.CreateSolver("GLOP")
        infinity = self._solver.infinity()
        self._value = self._solver.NumVar(-infinity, infinity, "value")
        self._prices = [self._solver.NumVar(0, 1, f"price{row}") for row in range(rows)]
        self._solver.Maximize(self._value)

    def add(self, cost: float, left: Floats) -> None:
        """Add `value <= cost - prices . left`."""
        plane = self._solver.Constraint(-self._solver.infinity(), cost / self._unit)
        plane.SetCoefficient(self._value, 1)
        for price, amount in zip(self._prices, left.tolist(), strict=True):
            plane.SetCoefficient(price, amount)

    def solve(self, box: float) -> tuple[float, Floats] | None:
        """Return the best value and prices in the box.

        None stands for a program beyond the solver's numerical range.
        """
        for price in self._prices:
            price.SetUb(box / self._unit)
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        prices = np.array([price.solution_value() for price in self._prices]) * self._unit
        return float(self._value.solution_value()) * self._unit, np.clip(prices, 0, box)
