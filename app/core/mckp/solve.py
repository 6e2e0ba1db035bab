"""Solving a multiple-choice knapsack with a limit on bytes and on further rows, with a proof."""

from __future__ import annotations

from dataclasses import replace

from bitbudget.app.core.mckp.problem import Problem, Row
from bitbudget.app.core.mckp.result import NO_LIMITS, Limits, Solution
from bitbudget.app.core.mckp.single.prepare import prepare
from bitbudget.app.core.mckp.single.solve import solve_prepared

__all__ = ["solve_problem"]


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
        from bitbudget.app.core.mckp.rows.solve import solve_rows  # noqa: PLC0415 - OR-Tools is slow to import

        active += broken
        solution = solve_rows(replace(problem, rows=tuple(active)), budget, free, limits)
