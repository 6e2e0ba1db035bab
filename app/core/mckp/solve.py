"""Solving a multiple-choice knapsack with one limit on bytes, with a proof."""

from __future__ import annotations

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.mckp.prepare import Prepared
from bitbudget.app.core.mckp.result import NO_LIMITS, Limits, Solution, Status
from bitbudget.app.core.mckp.search import search

__all__ = ["solve_prepared"]


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
