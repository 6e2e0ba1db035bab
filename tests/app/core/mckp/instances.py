"""Small knapsacks of many shapes, and the truth about them."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from bitbudget.app.core.mckp import Problem

Options = list[tuple[int, float]]


def problem_of(groups: list[Options]) -> Problem:
    sizes = [len(group) for group in groups]
    return Problem(
        offsets=np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
        bytes=np.array([b for group in groups for b, _ in group], dtype=np.int64),
        costs=np.array([c for group in groups for _, c in group], dtype=np.float64),
    )


def brute_force(groups: list[Options], budget: int) -> Fraction:
    """The exact optimum in rational arithmetic."""
    return min(
        sum((Fraction(cost) for _, cost in choice), Fraction())
        for choice in itertools.product(*groups)
        if sum(nbytes for nbytes, _ in choice) <= budget
    )


_COSTS = (
    st.integers(0, 30).map(float),
    st.floats(0, 1),
    st.floats(0, 1e-12),
    st.floats(0, 1e12),
    st.floats(-12, 12).map(lambda exponent: 10.0**exponent),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from([0.0, 1e-12, 1.0, 1e12]),
)


@st.composite
def groups_of_options(draw: st.DrawFn) -> list[Options]:
    """Ragged groups, with ties, identical options, single options, huge and tiny numbers."""
    cost = draw(st.sampled_from(_COSTS))
    nbytes = st.integers(0, draw(st.sampled_from([3, 50, 1000, 10**9, 10**15])))
    option = st.tuples(nbytes, cost)
    return draw(st.lists(st.lists(option, min_size=1, max_size=5), min_size=1, max_size=5))
