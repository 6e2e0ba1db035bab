"""Solving a multiple-choice knapsack with one limit on bytes, with a proof."""

from __future__ import annotations

from dataclasses import replace

from app.core.errors import InfeasibleBudgetError
from app.core.mckp.prepare import Prepared, prepare
from app.core.mckp.problem import Problem, Row
from app.core.mckp.result import NO_LIMITS, Limits, Solution, Status
from app.core.mckp.search import search

__all__ = ["solve_prepared", "solve_problem"]


def solve_problem(problem: Problem, budget: int, limits: Limits = NO_LIMITS) -> Solution:
    """Return the cheapest choice within `budget` bytes that meets every row of the problem.

    Rows that a cheaper choice meets by itself are left out until it does not.

    Raises InfeasibleBudgetError when there is none, naming the limit that binds and the least it
    could be.
    """
    free = solve_prepared(prepare(problem), budget, limits)
    solution, active = free, list[Row]()
    while True:
        used = [int(row.weights[solution.choice].sum()) for row in problem.rows]
        broken = [r for r, use in zip(problem.rows, used, strict=True) if use > r.limit]
        if not broken:
            return replace(solution, used=tuple(used))
        from app.core.mckp.rows import solve_rows  # noqa: PLC0415 - OR-Tools is slow to import

        active += broken
        solution = solve_rows(replace(problem, rows=tuple(active)), budget, free, limits)


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
