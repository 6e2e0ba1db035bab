"""What rounding a module's inputs costs, from statistics: against loops and against exact sums."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.core.activations import INT8
from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.curves.rounding import input_rounding_nats
from bitbudget.workers.fisher.moments import Head, ModuleMoments
from bitbudget.workers.fisher.statistics import KroneckerTerm, ModuleStatistics
from bitbudget.workers.running.rounding import rounded
from bitbudget.workers.running.taps import Call

RANDOM = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def statistics_of(rows: np.ndarray, errors: np.ndarray) -> ModuleStatistics:
    width = errors.shape[-1]
    term = KroneckerTerm(np.broadcast_to(np.eye(width), (*errors.shape, width)), rows)
    sums = np.zeros(1), np.zeros(1)
    return ModuleStatistics("m", 1.0, *sums, (term,), np.array(9), errors)


def by_loops(weight: np.ndarray, rows: np.ndarray, errors: np.ndarray) -> float:
    """1/2 sum_i d_i (W^T B W)_ii, B of trace one."""
    full = np.diag(rows) if rows.ndim == 1 else rows
    total = 0.0
    for i in range(weight.shape[1]):
        for o in range(weight.shape[0]):
            for p in range(weight.shape[0]):
                total += errors[i] * weight[o, i] * full[o, p] * weight[p, i]
    return float(0.5 * total / np.trace(full))


@pytest.mark.parametrize("is_diagonal", [False, True])
@pytest.mark.parametrize("experts", [0, 3])
def test_it_is_what_a_plain_loop_gives(experts: int, *, is_diagonal: bool) -> None:
    lead = (experts,) if experts else ()
    weight, g, errors = normal(*lead, 5, 8), normal(*lead, 5, 5), np.square(normal(*lead, 8))
    rows = g @ g.swapaxes(-1, -2)
    if is_diagonal:
        rows = np.diagonal(rows, axis1=-2, axis2=-1).copy()
    known = statistics_of(rows, errors)
    each = zip(weight, rows, errors, strict=True) if experts else [(weight, rows, errors)]
    expected = sum(by_loops(*one) for one in each)
    assert input_rounding_nats([weight], Dtype.F32, known) == pytest.approx(expected, rel=1e-5)
    if experts:
        apart = input_rounding_nats(list(weight), Dtype.F32, known)
        assert apart == pytest.approx(expected, rel=1e-5)


def test_a_wide_module_is_estimated_from_drawn_columns() -> None:
    weight, errors = normal(24, 4096), np.square(normal(4096)) ** 2
    rows = np.cov(normal(24, 24)).astype(np.float32)
    known = statistics_of(rows, errors)
    exact = 0.5 * np.einsum("i,oi,op,pi->", errors, weight, rows, weight) / np.trace(rows)
    assert input_rounding_nats([weight], Dtype.F32, known) == pytest.approx(exact, rel=0.05)


def test_without_recorded_inputs_nothing_is_said() -> None:
    known = statistics_of(np.ones(5, np.float32), np.ones(8, np.float32))
    unknown = ModuleStatistics("m", 1.0, np.ones(5), np.ones(8), known.terms, np.array(9))
    assert input_rounding_nats([normal(5, 8)], Dtype.F32, unknown) is None


@pytest.mark.parametrize("experts", [0, 2])
def test_errors_of_rounded_inputs_are_weighted_by_the_gradient(experts: int) -> None:
    x, g = normal(2, 7, 160), normal(2, 7, 5)
    chosen = RANDOM.integers(0, experts, (2, 7)) if experts else np.zeros((2, 7), np.int64)
    expected = np.zeros((max(experts, 1), 160))
    errors = np.array(rounded(mx.array(x), INT8)) - x
    for s in range(2):
        for t in range(7):
            expected[chosen[s, t]] += np.square(g[s, t]).sum() * np.square(errors[s, t]) / 14
    lead = (experts,) if experts else ()
    moments = ModuleMoments("m", (*lead, 5, 160))
    indices = mx.array(chosen) if experts else None
    moments.add(Call("m", mx.array(x), indices), mx.array(g))
    found = moments.finish(1.0, 14).rounding
    assert found is not None
    assert np.allclose(found, expected if experts else expected[0], rtol=1e-4, atol=1e-12)


def test_a_head_is_summed_token_by_token() -> None:
    x, g, weight = normal(2, 7, 160), normal(2, 7, 5), normal(5, 160)
    errors = np.array(rounded(mx.array(x), INT8)) - x
    expected = 0.0
    for s in range(2):
        for t in range(7):
            expected += 0.5 * float(g[s, t] @ weight @ errors[s, t]) ** 2 / 14
    moments = ModuleMoments("m", (5, 160))
    head = Head(mx.ones((14, 5)), mx.array(weight))
    moments.add(Call("m", mx.array(x)), mx.array(g), head)
    found = moments.finish(1.0, 14)
    assert found.rounding is None
    assert input_rounding_nats([weight], Dtype.F32, found) == pytest.approx(expected, rel=1e-4)
