"""Solving a multiple-choice knapsack with one limit on bytes, with a proof."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from app.core.errors import InfeasibleBudgetError
from app.core.mckp.expand import Core, close_gap
from app.core.mckp.prepare import Prepared
from app.core.mckp.problem import Integers
from app.core.mckp.relaxation import break_at, greedy_choice
from app.core.mckp.result import NO_LIMITS, Limits, Solution, Status

__all__ = ["solve_prepared"]

_ROUNDING: Final = 4e-15
"""Rounding of all sums of a search, relative to the cost above the least possible: every cost in a
better choice is below it, and the search adds each a few times."""

_WHOLE: Final = 1 - 2.0**-10
"""Two different whole costs are at least 1 apart; the rest leaves room for rounding."""


def solve_prepared(prepared: Prepared, budget: int, limits: Limits = NO_LIMITS) -> Solution:
    """Return the cheapest choice within `budget` bytes.

    Raises InfeasibleBudgetError when no choice fits, naming the least bytes of any.
    """
    if budget < prepared.minimum_bytes:
        raise InfeasibleBudgetError(
            budget_bytes=budget, minimum_bytes=prepared.minimum_bytes, binding="total of bytes"
        )
    at = break_at(prepared, budget)
    greedy = greedy_choice(prepared, at.step)
    greedy_cost = math.fsum(prepared.costs[greedy].tolist())
    rounding = _ROUNDING * float(prepared.excess_cost[at.step])
    core = Core(
        at=at,
        gap=at.greedy_gap,
        tolerance=_WHOLE if prepared.whole_costs else rounding,
        target=limits.relative_gap * greedy_cost,
    )
    if core.gap > core.target:
        close_gap(prepared, core, limits)
    choice = greedy.copy()
    for group, option in core.changes.items():
        choice[group] = option
    return _solution(prepared, core, choice, greedy_cost - 2 * rounding)


def _solution(prepared: Prepared, core: Core, choice: Integers, greedy_cost: float) -> Solution:
    """Return the choice with its certificate; `greedy_cost` is rounded down."""
    objective = math.fsum(prepared.costs[choice].tolist())
    optimal = core.is_proven
    bound = _below(greedy_cost - core.at.greedy_gap + core.proven_gap)
    if core.at.greedy_gap == 0 or (optimal and prepared.whole_costs):
        bound = objective
    return Solution(
        choice=prepared.source[choice],
        objective=objective,
        bound=min(max(bound, 0.0), objective),
        bytes=int(prepared.bytes[choice].sum()),
        price=core.at.price,
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        solver="hull, LP bound and expanding core",
        stopped_by="" if optimal else core.stopped_by or "gap reached",
    )


def _below(value: float) -> float:
    return float(np.nextafter(value, -np.inf))
