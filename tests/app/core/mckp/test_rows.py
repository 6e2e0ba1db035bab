from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.mckp import (
    Limits,
    Problem,
    Row,
    Status,
    prepare,
    solve_prepared,
    solve_problem,
)
from bitbudget.app.core.mckp.rows.cpsat import close_exactly
from bitbudget.app.core.mckp.rows.system import System
from tests.app.core.mckp.instances import Options, groups_of_options, problem_of


def with_rows(problem: Problem, rows: list[tuple[int, list[int]]]) -> Problem:
    made = tuple(
        Row(f"r{index}", limit, np.array(weights, dtype=np.int64))
        for index, (limit, weights) in enumerate(rows)
    )
    return Problem(problem.offsets, problem.bytes, problem.costs, made)


def cheapest(problem: Problem, budget: int) -> Fraction | None:
    places = [range(*problem.offsets[i : i + 2].tolist()) for i in range(problem.groups)]
    costs = [
        sum((Fraction(c) for c in problem.costs[list(choice)].tolist()), Fraction())
        for choice in itertools.product(*places)
        if problem.bytes[list(choice)].sum() <= budget
        and all(row.weights[list(choice)].sum() <= row.limit for row in problem.rows)
    ]
    return min(costs, default=None)


@settings(max_examples=60, deadline=None)
@given(groups_of_options(), st.floats(0, 1), st.data())
def test_equals_brute_force_and_its_certificate_holds(
    groups: list[Options], fraction: float, data: st.DataObject
) -> None:
    plain = problem_of(groups)
    rows = []
    for _ in range(data.draw(st.integers(1, 2))):
        weights = data.draw(
            st.lists(st.integers(0, 100), min_size=plain.options, max_size=plain.options)
        )
        rows.append((data.draw(st.integers(0, 60 * plain.groups)), weights))
    problem = with_rows(plain, rows)
    least = prepare(plain).minimum_bytes
    budget = least + int(fraction * (int(plain.bytes.sum()) - least))
    optimum = cheapest(problem, budget)
    if optimum is None:
        with pytest.raises(InfeasibleBudgetError):
            solve_problem(problem, budget)
        return
    solution = solve_problem(problem, budget)
    assert solution.status is Status.OPTIMAL
    assert solution.bytes <= budget
    assert all(use <= row.limit for use, row in zip(solution.used, problem.rows, strict=True))
    assert Fraction(solution.bound) <= optimum * (1 + Fraction(1, 10**15))
    assert Fraction(solution.objective) <= optimum * (1 + Fraction(1, 10**9))


def moe_like(groups: int, seed: int) -> tuple[Problem, int]:
    """Bytes read per token are a sixteenth of the bytes for most groups."""
    random = np.random.default_rng(seed)
    weights = random.choice([10**5, 4 * 10**5, 10**6], groups)
    bits = np.array([2, 3, 4, 5, 6, 8])
    bytes_ = weights[:, None] * bits // 8 + random.integers(0, 64, (groups, 6))
    noise = np.exp(0.1 * random.standard_normal((groups, 6)))
    alpha = weights * np.exp(1.5 * random.standard_normal(groups))
    costs = alpha[:, None] * 4.0**-bits * noise
    active = np.where(random.random(groups) < 0.1, 16, 1)
    plain = Problem.from_matrix(bytes_, costs)
    read = (bytes_ * active[:, None]).ravel()
    prepared = prepare(plain)
    budget = (prepared.minimum_bytes + prepared.cheapest_bytes) // 2
    used = int(read[solve_prepared(prepared, budget).choice].sum())
    least = int((bytes_ * active[:, None]).min(axis=1).sum())
    return with_rows(plain, [(least + 8 * (used - least) // 10, read.tolist())]), budget


@pytest.mark.parametrize(("groups", "gap"), [(250, 1e-3), (3000, 1e-4)])
def test_a_second_row_of_real_shape_is_certified(groups: int, gap: float) -> None:
    problem, budget = moe_like(groups, seed=11)
    solution = solve_problem(problem, budget, Limits(relative_gap=gap))
    assert solution.gap <= gap
    assert solution.bytes <= budget
    assert solution.used[0] <= problem.rows[0].limit


def test_rows_are_deterministic() -> None:
    first, second = (solve_problem(*moe_like(250, 3), Limits(relative_gap=1e-4)) for _ in range(2))
    assert first.choice.tobytes() == second.choice.tobytes()
    assert (first.objective, first.bound) == (second.objective, second.bound)


def correlated(groups: int) -> Problem:
    """A subset sum in disguise: cost and bytes say the same, and no bound tells options apart."""
    random = np.random.default_rng(3)
    bytes_ = random.integers(1, 10**8, (groups, 8))
    row = Row("twin", int(0.95 * bytes_.mean() * groups), (2 * (bytes_ // 2)).ravel())
    plain = Problem.from_matrix(bytes_, (bytes_.max() - bytes_).astype(np.float64))
    return Problem(plain.offsets, plain.bytes, plain.costs, (row,))


def test_a_hard_instance_ends_with_the_limit_and_a_valid_bound() -> None:
    problem = correlated(60)
    budget = int(0.9 * problem.bytes.mean() * 60) | 1
    asked = 0

    def is_over() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    limits = Limits(is_over=is_over, seconds_left=lambda: 0.2)
    solution = solve_problem(problem, budget, limits)
    assert solution.bytes <= budget
    assert solution.bound <= solution.objective
    assert solution.gap < 0.01
    if solution.status is Status.FEASIBLE:
        assert solution.stopped_by in {"time limit", "state limit"}


def test_a_row_that_the_budget_leaves_no_room_is_named_with_the_least_bytes() -> None:
    problem = Problem.from_matrix(np.array([[1, 9], [1, 9]]), np.array([[1.0, 0.0]] * 2))
    against = Row("against", 1, np.array([1, 0, 1, 0]))
    with pytest.raises(InfeasibleBudgetError, match="against") as refused:
        solve_problem(replace(problem, rows=(against,)), 9)
    assert refused.value.minimum_bytes == 10
    assert solve_problem(replace(problem, rows=(against,)), 10).bytes == 10


def test_proven_means_proven_though_a_gap_was_allowed() -> None:
    """CP-SAT calls an answer within the allowed gap optimal; we do not."""
    random = np.random.default_rng(0)
    plain = Problem.from_matrix(
        random.integers(1, 1000, (40, 6)), random.random((40, 6)).astype(np.float64)
    )
    row = Row("side", 14_000, random.integers(1, 1000, 240))
    solution = solve_problem(replace(plain, rows=(row,)), 16_000, Limits(relative_gap=0.05))
    assert solution.gap <= 0.05
    assert (solution.status is Status.OPTIMAL) == (solution.gap <= 1e-9)


def test_a_search_that_has_begun_ends_when_nobody_waits_any_more() -> None:
    problem = correlated(200)
    budget = int(0.9 * problem.bytes.mean() * 200) | 1
    is_over = threading.Event()
    threading.Timer(0.5, is_over.set).start()
    began = time.monotonic()
    limits = Limits(is_over=is_over.is_set, seconds_left=lambda: 60.0)
    system = System.of(problem, budget)
    closed = close_exactly(system, np.arange(problem.options), None, limits)
    assert not closed.is_optimal
    assert time.monotonic() - began < 20
