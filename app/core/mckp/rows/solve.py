"""Solving a multiple-choice knapsack with side rows, with a proof."""

from __future__ import annotations

from typing import Final

import numpy as np

from bitbudget.app.core.errors import BitbudgetError, InfeasibleBudgetError
from bitbudget.app.core.mckp.problem import Integers, Problem
from bitbudget.app.core.mckp.result import Limits, Solution, Status
from bitbudget.app.core.mckp.rows.branch import Node, branch
from bitbudget.app.core.mckp.rows.cpsat import close_exactly, least_of_row
from bitbudget.app.core.mckp.rows.lagrangian import maximise_dual
from bitbudget.app.core.mckp.rows.repair import Reduced, best_feasible
from bitbudget.app.core.mckp.rows.system import System
from bitbudget.app.core.mckp.single.prepare import prepare
from bitbudget.app.core.mckp.single.solve import solve_prepared

__all__ = ["solve_rows"]

_MOST_LEFT: Final = 20_000
"""More options than this are not given to CP-SAT, which finds nothing useful there."""

_ROUNDING: Final = 1e-12
"""A relative gap that rounding explains."""

_FEW_NODES: Final = 6
_MOST_NODES: Final = 12
"""Nodes of the branching, few where CP-SAT closes what is left sooner."""

_PASSES: Final = 3
_ACCEPTED: Final = 1e-9
"""Rounding of scaled costs, relative to the objective, below which a proof is called one."""


def solve_rows(problem: Problem, budget: int, free: Solution, limits: Limits) -> Solution:
    """Return the cheapest choice that meets the budget and every row.

    `free` is the optimum without the rows, which does not meet them.

    Raises InfeasibleBudgetError when no choice is feasible, naming the row that binds.
    """
    system = System.of(problem, budget)
    first = np.zeros(system.limits.size)
    first[0] = free.price
    dual = maximise_dual(system, first, limits)
    if dual.is_contradiction:
        raise _contradiction(system, limits)
    reduced = Reduced.of(system, dual)
    best = best_feasible(system, dual, reduced, limits)
    bound = max(dual.bound, free.bound)
    if best is not None and _is_open(system, best, bound, limits):
        is_small = _left(reduced, best, system.cost(best)).size <= _MOST_LEFT
        nodes = _FEW_NODES if is_small else _MOST_NODES
        best, bound = branch(Node(system, dual, bound), best, limits, nodes)
    return _close(system, reduced, best, bound, limits)


def _is_open(system: System, best: Integers, bound: float, limits: Limits) -> bool:
    objective = system.cost(best)
    return objective - bound > max(limits.relative_gap, _ROUNDING) * objective


def _close(
    system: System, reduced: Reduced, best: Integers | None, bound: float, limits: Limits
) -> Solution:
    """Let CP-SAT search what may still beat `best`, again when that leaves less."""
    is_proven, stopped_by = False, "too many options left for an exact search"
    for _ in range(_PASSES):
        objective = np.inf if best is None else system.cost(best)
        gap = objective - bound
        if best is not None and gap <= max(limits.relative_gap, _ROUNDING) * objective:
            is_proven, stopped_by = gap <= _ROUNDING * objective, "gap reached"
            break
        options = _left(reduced, best, objective)
        if options.size > _MOST_LEFT and best is not None:
            break
        closed = close_exactly(system, options, best, limits)
        if closed.is_infeasible and best is None:
            raise _contradiction(system, limits)
        if closed.choice is not None and system.cost(closed.choice) < objective:
            best = closed.choice
        if best is None:
            raise BitbudgetError(reason="no choice that meets every row was found in time")
        objective = system.cost(best)
        bound = max(bound, min(closed.bound, objective))
        is_exact = closed.is_optimal and closed.rounding <= _ACCEPTED * objective
        is_proven = is_exact and objective - bound <= max(_ROUNDING * objective, closed.rounding)
        stopped_by = "gap reached" if closed.is_optimal else "time limit"
        if is_exact or not closed.is_optimal or limits.is_over():
            break
    if best is None:
        raise BitbudgetError(reason="no choice that meets every row was found")
    return _solution(system, reduced, best, bound, is_proven=is_proven, stopped_by=stopped_by)


def _left(reduced: Reduced, best: Integers | None, objective: float) -> Integers:
    """Return the options whose reduced cost alone does not exceed the gap."""
    gap = objective - reduced.bound
    useful = reduced.penalty <= gap
    if best is not None:
        useful[best] = True
    return np.flatnonzero(useful)


def _contradiction(system: System, limits: Limits) -> InfeasibleBudgetError:
    """Name the least budget that the side rows allow, or the row that the others leave no room."""
    if system.limits.size == 2:  # noqa: PLR2004, the budget and one row
        return _least_beside(system, limits)
    for row in range(system.limits.size):
        least = least_of_row(system, row, limits)
        if least is not None and least > system.limits[row]:
            others = [name for place, name in enumerate(system.names) if place != row]
            return InfeasibleBudgetError(
                budget_bytes=int(system.limits[row]),
                minimum_bytes=least,
                binding=f"{system.names[row]} beside {', '.join(others)}",
            )
    return InfeasibleBudgetError(
        budget_bytes=int(system.limits[0]),
        minimum_bytes=int(system.limits[0]) + 1,
        binding=" and ".join(system.names) + ", which contradict each other,",
    )


def _least_beside(system: System, limits: Limits) -> InfeasibleBudgetError:
    """Name the least bytes at which the one row holds: a knapsack that costs bytes."""
    bytes_, weights = system.weights
    problem = Problem(system.problem.offsets, weights, bytes_.astype(np.float64))
    found = solve_prepared(prepare(problem), int(system.limits[1]), limits)
    return InfeasibleBudgetError(
        budget_bytes=int(system.limits[0]),
        minimum_bytes=int(bytes_[found.choice].sum()),
        binding=f"{system.names[0]} beside {system.names[1]}",
    )


def _solution(
    system: System,
    reduced: Reduced,
    best: Integers,
    bound: float,
    *,
    is_proven: bool,
    stopped_by: str,
) -> Solution:
    used = (system.limits - system.left(best)).tolist()
    objective = system.cost(best)
    return Solution(
        choice=best,
        objective=objective,
        bound=min(max(bound, 0.0), objective),
        bytes=used[0],
        price=float(reduced.prices[0]),
        status=Status.OPTIMAL if is_proven else Status.FEASIBLE,
        solver="Lagrangian dual, beam and CP-SAT",
        stopped_by="" if is_proven else stopped_by,
        used=tuple(used[1:]),
    )
