"""Branching keeps the certificate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitbudget.app.core.mckp import Limits, Problem, prepare, solve_prepared
from bitbudget.app.core.mckp.result import NO_LIMITS
from bitbudget.app.core.mckp.rows.branch import Node, branch
from bitbudget.app.core.mckp.rows.lagrangian import maximise_dual
from bitbudget.app.core.mckp.rows.repair import Reduced, best_feasible
from bitbudget.app.core.mckp.rows.system import System
from tests.app.core.mckp.instances import Options, groups_of_options, problem_of
from tests.app.core.mckp.test_rows import cheapest, with_rows


@settings(max_examples=60, deadline=None)
@given(groups_of_options(), st.floats(0, 1), st.integers(1, 12), st.data())
def test_the_optimum_stays_between_bound_and_objective(
    groups: list[Options], fraction: float, nodes: int, data: st.DataObject
) -> None:
    plain = problem_of(groups)
    weights = data.draw(
        st.lists(st.integers(0, 100), min_size=plain.options, max_size=plain.options)
    )
    problem = with_rows(plain, [(data.draw(st.integers(0, 60 * plain.groups)), weights)])
    budget = int(fraction * int(plain.bytes.sum()))
    optimum = cheapest(problem, budget)
    assume(optimum is not None)
    assert optimum is not None
    system = System.of(problem, budget)
    dual = maximise_dual(system, np.zeros(2), NO_LIMITS)
    best = best_feasible(system, dual, Reduced.of(system, dual), NO_LIMITS)
    assume(best is not None)
    assert best is not None
    choice, bound = branch(Node(system, dual, dual.bound), best, NO_LIMITS, nodes)
    assert system.is_feasible(choice)
    assert dual.bound <= bound <= system.cost(choice) <= system.cost(best)
    assert Fraction(bound) <= optimum * (1 + Fraction(1, 10**12))
    assert (np.searchsorted(problem.offsets, choice, "right") - 1 == np.arange(len(groups))).all()


def with_one_large_step(seed: int) -> tuple[Problem, int]:
    """600 small groups and one that is worth as much as a hundred of them, as an embedding is."""
    random = np.random.default_rng(seed)
    rates = np.array([2.5, 3.5, 4.5, 5.5, 6.5, 8.5])
    weights = np.where(np.arange(601) == 0, 800_000, 8_000)
    bytes_ = (weights[:, None] * rates / 8).astype(np.int64)
    alpha = weights * np.exp(random.standard_normal(weights.size))
    costs = alpha[:, None] * 4.0**-rates
    read = (bytes_ * np.where(np.arange(601) % 5, 1 / 16, 1.0)[:, None]).astype(np.int64)
    read[0] = 0
    plain = Problem.from_matrix(bytes_, costs)
    least, most = bytes_.min(axis=1).sum(), bytes_.max(axis=1).sum()
    budget = int(least + 0.2 * (most - least))
    free = solve_prepared(prepare(plain), budget)
    limit = int(read.min(axis=1).sum())
    limit += int(0.9 * (int(read.ravel()[free.choice].sum()) - limit))
    return with_rows(plain, [(limit, read.ravel().tolist())]), budget


def test_deciding_a_large_step_first_closes_the_gap() -> None:
    """The LP takes half of the large step here, and no choice can."""
    problem, budget = with_one_large_step(1)
    system = System.of(problem, budget)
    dual = maximise_dual(system, np.zeros(2), NO_LIMITS)
    limits = Limits(relative_gap=1e-5)
    best = best_feasible(system, dual, Reduced.of(system, dual), limits)
    assert best is not None
    before = system.cost(best) - dual.bound
    choice, bound = branch(Node(system, dual, dual.bound), best, limits, 4)
    again, same = branch(Node(system, dual, dual.bound), best, limits, 4)
    assert (choice == again).all()
    assert bound == same
    assert system.is_feasible(choice)
    assert system.cost(choice) - bound < before / 4
