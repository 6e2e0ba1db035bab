from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.mckp import Limits, Problem, prepare, solve_prepared
from bitbudget.app.core.mckp.single.many import solve_many
from tests.app.core.mckp.instances import Options, groups_of_options, problem_of


@settings(max_examples=100, deadline=None)
@given(groups_of_options())
def test_every_budget_has_a_valid_certificate(groups: list[Options]) -> None:
    prepared = prepare(problem_of(groups))
    most = sum(max(nbytes for nbytes, _ in group) for group in groups)
    budgets = np.linspace(prepared.minimum_bytes, most, 7).astype(np.int64).tolist()
    many = solve_many(prepared, budgets, Limits(relative_gap=1e-3))
    assert (many.bytes <= budgets).all()
    assert (many.gap <= 1e-3 * (1 + 1e-9)).all()
    for index, budget in enumerate(budgets):
        optimum = solve_prepared(prepared, budget).objective
        assert many.bound[index] <= optimum * (1 + 1e-12)
        assert optimum <= many.objective[index] * (1 + 1e-12)


def test_a_thousand_budgets_are_certified_and_monotone() -> None:
    random = np.random.default_rng(3)
    bytes_ = np.sort(random.integers(1, 10**6, (3000, 18)), axis=1)
    costs = np.ascontiguousarray(np.sort(random.random((3000, 18)), axis=1)[:, ::-1] ** 3)
    prepared = prepare(Problem.from_matrix(bytes_, costs))
    budgets = np.linspace(prepared.minimum_bytes, prepared.cheapest_bytes, 1000).astype(np.int64)
    many = solve_many(prepared, budgets.tolist(), Limits(relative_gap=1e-4))
    assert (many.gap <= 1e-4).all()
    assert (np.diff(many.bound) <= 0).all()


def test_the_smallest_budget_is_named_when_it_is_too_small() -> None:
    prepared = prepare(problem_of([[(5, 1.0), (9, 0.0)]]))
    with pytest.raises(InfeasibleBudgetError, match="5 bytes"):
        solve_many(prepared, [9, 4])
