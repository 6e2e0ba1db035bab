"""OR-Tools CP-SAT on the whole problem, a solver of another kind, finds the same optimum."""

from __future__ import annotations

import numpy as np
import pytest
from ortools.sat.python import cp_model

from bitbudget.app.core.mckp import Problem, Status, prepare, solve_prepared


def by_cp_sat(problem: Problem, budget: int) -> int:
    model = cp_model.CpModel()
    variables = [model.new_bool_var("") for _ in range(problem.options)]
    for group in range(problem.groups):
        first, last = problem.offsets[group : group + 2].tolist()
        model.add_exactly_one(variables[first:last])
    total = cp_model.LinearExpr.weighted_sum(variables, problem.bytes)
    model.add(total <= budget)
    costs = problem.costs.astype(np.int64)
    model.minimize(cp_model.LinearExpr.weighted_sum(variables, costs))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = 60
    assert solver.solve(model) == cp_model.OPTIMAL
    return round(solver.objective_value)


def instance(shape: str, seed: int) -> Problem:
    random = np.random.default_rng(seed)
    groups, width = 12, 6
    bytes_ = random.integers(1, 2000, (groups, width))
    if shape == "convex":
        costs = 10**7 // bytes_
    elif shape == "correlated":
        costs = 2000 - bytes_ + random.integers(0, 20, (groups, width))
    elif shape == "subset sum":
        costs = 2000 - bytes_
    elif shape == "one dominates":
        bytes_[0] *= 10
        costs = random.integers(0, 1000, (groups, width))
    else:
        costs = random.integers(0, 1000, (groups, width))
    return Problem.from_matrix(bytes_, costs.astype(np.float64))


@pytest.mark.parametrize("shape", ["random", "convex", "correlated", "subset sum", "one dominates"])
@pytest.mark.parametrize("seed", range(2))
def test_two_solvers_agree(shape: str, seed: int) -> None:
    problem = instance(shape, seed)
    prepared = prepare(problem)
    for share in (0.1, 0.5, 0.8):
        room = prepared.cheapest_bytes - prepared.minimum_bytes
        budget = prepared.minimum_bytes + int(share * room)
        solution = solve_prepared(prepared, budget)
        assert solution.status is Status.OPTIMAL
        assert solution.bound == solution.objective == by_cp_sat(problem, budget)
