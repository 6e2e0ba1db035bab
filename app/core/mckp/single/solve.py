"""Solving a multiple-choice knapsack with one limit on bytes, with a proof.

The best choice at one budget: the core around the break, or a branch per option of its group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.mckp.problem import Integers
from bitbudget.app.core.mckp.result import NO_LIMITS, Limits, Solution, Status
from bitbudget.app.core.mckp.single.expand import Core, close_gap
from bitbudget.app.core.mckp.single.prepare import Prepared, with_start, without_steps
from bitbudget.app.core.mckp.single.relaxation import Break, break_at, greedy_choice
from bitbudget.app.core.mckp.single.stages import Neighbourhood

__all__ = ["Found", "search", "solve_prepared"]

_ROUNDING: Final = 4e-15
"""Rounding of all sums of a search, relative to the cost above the least possible: every cost in a
better choice is below it, and the search adds each a few times."""

_WHOLE: Final = 1 - 2.0**-10
"""Two different whole costs are at least 1 apart; the rest leaves room for rounding."""

_COARSE: Final = 1e-9
"""Relative rounding of the bounds that order the branches."""

_NEAR: Final = 64
"""A step at the break is wide when this many steps beside it cannot make up for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A choice (prepared options), its cost, and a cost no other choice within budget is below.

    With a cutoff, only choices that cost less were looked for: then `bound` may be the cutoff.
    """

    choice: Integers
    objective: float
    bound: float
    is_proven: bool
    price: float
    stopped_by: str


def search(prepared: Prepared, budget: int, limits: Limits, cutoff: float = math.inf) -> Found:
    """Return the cheapest choice within a feasible `budget`, if it costs less than `cutoff`."""
    at = break_at(prepared, budget)
    if _is_wide(prepared, at):
        return _branch(prepared, at, budget, limits, cutoff)
    greedy = greedy_choice(prepared, at.step)
    greedy_cost = math.fsum(prepared.costs[greedy].tolist())
    rounding = _ROUNDING * float(prepared.excess_cost[at.step])
    core = Core(
        at=at,
        gap=min(at.greedy_gap, cutoff - (greedy_cost - at.greedy_gap)),
        tolerance=_WHOLE if prepared.whole_costs else rounding,
        target=limits.relative_gap * greedy_cost,
    )
    if core.gap > core.target:
        close_gap(Neighbourhood.of(prepared, at, greedy), core, limits)
    for group, option in core.changes.items():
        greedy[group] = option
    objective = math.fsum(prepared.costs[greedy].tolist())
    bound = greedy_cost - at.greedy_gap + core.proven_gap - 2 * rounding
    is_exact = at.greedy_gap == 0 or (core.is_proven and prepared.whole_costs)
    return Found(
        choice=greedy,
        objective=objective,
        bound=min(objective, cutoff) if is_exact else float(np.nextafter(bound, -np.inf)),
        is_proven=core.is_proven,
        price=at.price,
        stopped_by=core.stopped_by,
    )


def _is_wide(prepared: Prepared, at: Break) -> bool:
    """Whether the step at the break is too large for its neighbours to make up for.

    Every choice is then far from the LP optimum, and the core would have to grow over all groups.
    """
    if at.left_bytes == 0:
        return False
    after = int(prepared.step_bytes[at.step + 1 : at.step + 1 + _NEAR].sum())
    before = int(prepared.step_bytes[max(at.step - _NEAR, 0) : at.step].sum())
    missing = int(prepared.step_bytes[at.step]) - at.left_bytes
    return at.left_bytes > after > 0 and missing > before > 0


def _branch(prepared: Prepared, at: Break, budget: int, limits: Limits, cutoff: float) -> Found:
    """Fix the group at the break to each of its options, most promising first."""
    group = int(prepared.step_group[at.step])
    others = without_steps(prepared, group)
    bounds = _lp_bounds(others, group, budget)
    best: Found | None = None
    branches: list[Found] = []
    for option in sorted(bounds, key=bounds.__getitem__):
        limit = cutoff if best is None else min(cutoff, best.objective)
        if best is not None and bounds[option] >= limit * (1 + _COARSE):
            break
        found = search(with_start(others, group, option), budget, limits, limit)
        branches.append(found)
        if best is None or found.objective < best.objective:
            best = found
    if best is None:
        raise InfeasibleBudgetError(budget_bytes=budget, minimum_bytes=prepared.minimum_bytes)
    return replace(
        best,
        bound=min(found.bound for found in branches),
        is_proven=all(found.is_proven for found in branches),
        price=at.price,
        stopped_by=next((found.stopped_by for found in branches if found.stopped_by), ""),
    )


def _lp_bounds(others: Prepared, group: int, budget: int) -> dict[int, float]:
    """Return a coarse LP bound for every option of `group` that leaves the others room."""
    first = int(others.offsets[group])
    least = float(others.costs[others.offsets[1:] - 1].sum())
    least -= float(others.costs[others.offsets[group + 1] - 1])
    bounds = {}
    for option in range(first, int(others.offsets[group + 1])):
        reduced = budget - int(others.bytes[option] - others.bytes[first])
        if reduced >= others.minimum_bytes:
            at = break_at(others, reduced)
            extra = float(others.excess_cost[at.step]) - at.greedy_gap
            bounds[option] = float(others.costs[option]) + least + extra
    return bounds


def solve_prepared(prepared: Prepared, budget: int, limits: Limits = NO_LIMITS) -> Solution:
    """Return the cheapest choice within `budget` bytes.

    Raises InfeasibleBudgetError when no choice fits, naming the least bytes of any.
    """
    if budget < prepared.minimum_bytes:
        raise InfeasibleBudgetError(
            budget_bytes=budget, minimum_bytes=prepared.minimum_bytes, binding="total of bytes"
        )
    found = search(prepared, budget, limits)
    return Solution(
        choice=prepared.source[found.choice],
        objective=found.objective,
        bound=min(max(found.bound, 0.0), found.objective),
        bytes=int(prepared.bytes[found.choice].sum()),
        price=found.price,
        status=Status.OPTIMAL if found.is_proven else Status.FEASIBLE,
        solver="hull, LP bound and expanding core",
        stopped_by="" if found.is_proven else found.stopped_by or "gap reached",
    )
