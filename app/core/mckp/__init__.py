"""Multiple-choice knapsacks, solved to proven optimality.

A multiple-choice knapsack chooses one option per group at least cost within a number of bytes.
`prepare` is done once per problem; `solve_prepared` then answers one budget.
"""

from bitbudget.app.core.mckp.problem import MAX_OPTIONS, MAX_TOTAL, Problem, Row
from bitbudget.app.core.mckp.result import Limits, Solution, Status
from bitbudget.app.core.mckp.single.prepare import Prepared, prepare
from bitbudget.app.core.mckp.single.solve import solve_prepared
from bitbudget.app.core.mckp.solve import solve_problem

__all__ = [
    "MAX_OPTIONS",
    "MAX_TOTAL",
    "Limits",
    "Prepared",
    "Problem",
    "Row",
    "Solution",
    "Status",
    "prepare",
    "solve_prepared",
    "solve_problem",
]
