from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbudget.app.core.errors import InfeasibleBudgetError, InvalidRequestError
from bitbudget.app.core.mckp import Limits, Problem, Status, prepare, solve_prepared
from tests.app.core.mckp.instances import Options, brute_force, groups_of_options, problem_of


@settings(max_examples=150, deadline=None)
@given(groups_of_options(), st.floats(0, 1))
def test_equals_brute_force_and_its_certificate_holds(
    groups: list[Options], fraction: float
) -> None:
    prepared = prepare(problem_of(groups))
    most = sum(max(nbytes for nbytes, _ in group) for group in groups)
    budget = prepared.minimum_bytes + int(fraction * (most - prepared.minimum_bytes))
    solution = solve_prepared(prepared, budget)
    optimum = brute_force(groups, budget)
    assert solution.status is Status.OPTIMAL
    assert solution.bytes == prepared.problem.bytes[solution.choice].sum() <= budget
    assert Fraction(solution.bound) <= optimum * (1 + Fraction(1, 10**15))
    assert optimum * (1 - Fraction(1, 10**15)) <= Fraction(solution.objective)
    assert Fraction(solution.objective) <= optimum * (1 + Fraction(1, 10**13))
    assert 0 <= solution.gap <= 1e-13


@given(groups_of_options())
def test_a_budget_below_the_minimum_names_the_minimum(groups: list[Options]) -> None:
    prepared = prepare(problem_of(groups))
    with pytest.raises(InfeasibleBudgetError) as caught:
        solve_prepared(prepared, prepared.minimum_bytes - 1)
    assert caught.value.minimum_bytes == sum(min(b for b, _ in group) for group in groups)


def _large(groups: int = 2000, seed: int = 5) -> Problem:
    random = np.random.default_rng(seed)
    bytes_ = np.sort(random.integers(1, 10**7, (groups, 22)), axis=1)
    costs = np.sort(random.random((groups, 22)), axis=1)[:, ::-1] ** 3
    return Problem.from_matrix(bytes_, np.ascontiguousarray(costs))


def test_the_same_input_gives_the_same_choice() -> None:
    first, second = (
        solve_prepared(prepare(problem), 5 * 10**9) for problem in (_large(), _large())
    )
    assert first.choice.tobytes() == second.choice.tobytes()
    assert (first.objective, first.bound) == (second.objective, second.bound)


def test_a_search_that_is_stopped_states_its_proven_gap() -> None:
    prepared = prepare(_large())
    budget = 5 * 10**9
    best = solve_prepared(prepared, budget)
    stopped = solve_prepared(prepared, budget, Limits(is_over=lambda: True))
    assert best.status is Status.OPTIMAL
    assert stopped.status is Status.FEASIBLE
    assert stopped.stopped_by == "time limit"
    assert stopped.bound <= best.objective <= stopped.objective
    narrow = solve_prepared(prepared, budget, Limits(states=10))
    assert narrow.bound <= best.objective <= narrow.objective


def test_a_coarser_gap_is_honoured() -> None:
    solution = solve_prepared(prepare(_large()), 5 * 10**9, Limits(relative_gap=1e-3))
    assert solution.gap <= 1e-3


@pytest.mark.parametrize(
    ("bytes_", "costs", "named"),
    [
        ([-1, 2], [1.0, 0.0], "bytes, option 0"),
        ([1, 2], [1.0, -0.5], "costs, option 1"),
        ([1, 2], [float("nan"), 0.5], "costs, option 0"),
        ([1, 2], [float("inf"), 0.5], "costs, option 0"),
        ([1, 2**61], [1.0, 0.5], "bytes"),
    ],
)
def test_impossible_numbers_are_named(bytes_: list[int], costs: list[float], named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        Problem(np.array([0, 2]), np.array(bytes_), np.array(costs))


def test_an_empty_group_is_named() -> None:
    with pytest.raises(InvalidRequestError, match="group 1"):
        Problem(np.array([0, 2, 2]), np.array([1, 2]), np.array([1.0, 0.5]))
