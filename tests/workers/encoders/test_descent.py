"""Descent: the objective never rises, grids are stored, same bits alone as among others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import AFFINE_FORMATS, Format, parse_format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders import descent
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.encoders.descent import code_weight
from bitbudget.workers.encoders.quadratic import Term, damped_term
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher import KroneckerTerm, ModuleStatistics
from tests.workers.encoders.objective import fed_back, objective, stored

FORMATS = tuple(parse_format(f"affine{bits}g{group}") for bits in (2, 3, 5) for group in (32, 64))


def moment(rng: np.random.Generator, width: int, rank: int | None = None) -> np.ndarray:
    x = rng.normal(size=(rank or 2 * width, width)) * np.exp(rng.normal(size=width))
    x += 0.3 * rng.normal(size=(len(x), 1))
    result: np.ndarray = (x.T @ x / len(x)).astype(np.float32)
    return result


def both(
    weight: np.ndarray, terms: tuple[Term, ...], dtype: Dtype
) -> tuple[list[Coded], list[Coded]]:
    """Return the weight as coded by the feedback pass, and as the descent leaves it."""
    feedback = Feedback.against(terms[0].columns, terms[0].rows)
    first, last = (
        code_weight(weight, FORMATS, dtype, feedback, terms, sweeps=sweeps) for sweeps in (0, None)
    )
    return first, last


def objectives(weight: np.ndarray, coded: list[Coded], terms: tuple[Term, ...]) -> np.ndarray:
    return np.array([objective(terms, part.values - weight) for part in coded])


def test_codes_of_the_feedback_pass_are_those_of_the_reference() -> None:
    rng = np.random.default_rng(4)
    weight = stored(rng.normal(size=(21, 256)).astype(np.float32), Dtype.BF16)
    feedback = Feedback.against(moment(rng, 256), np.ones(21, np.float32))
    term = damped_term(np.eye(256), np.ones(21))
    coded = code_weight(weight, FORMATS, Dtype.BF16, feedback, (term,), sweeps=0)
    for part, format_ in zip(coded, FORMATS, strict=True):
        most = 2**format_.bits - 1
        expected = fed_back(weight, feedback, part.scales, part.biases, most)
        # A tie that float32 rounds the other way moves what comes after it in its row.
        assert (part.codes == expected).mean() > 0.97


@pytest.mark.parametrize("out", [24, 72])
@pytest.mark.parametrize("is_coupled", [False, True])
def test_no_single_code_could_be_better_after_many_sweeps(out: int, is_coupled: bool) -> None:  # noqa: FBT001 - a parameter
    rng = np.random.default_rng(11)
    weight = stored(rng.normal(size=(out, 64)).astype(np.float32), Dtype.BF16)
    terms = (damped_term(moment(rng, 64), moment(rng, out) if is_coupled else np.ones(out)),)
    feedback = Feedback.against(terms[0].columns, terms[0].rows)
    (part,) = code_weight(weight, FORMATS[2:3], Dtype.BF16, feedback, terms, sweeps=60)
    error, scale = part.values - weight, np.repeat(part.scales, 32, 1)
    rows = terms[0].rows if is_coupled else np.eye(out)
    gradient = rows @ error @ terms[0].columns
    bend = np.outer(np.diagonal(rows), np.diagonal(terms[0].columns))
    gain = np.zeros_like(error)
    for step in (-1, 1):
        moved = part.codes.astype(int) + step
        can = (moved >= 0) & (moved <= 7)
        change = step * scale
        gain = np.minimum(gain, np.where(can, change * gradient + 0.5 * change**2 * bend, 0))
    assert -gain.sum() < 0.1 * objective(terms, error)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([Dtype.BF16, Dtype.F16, Dtype.F32]),
    st.sampled_from(["free", "coupled", "two uses", "singular"]),
    st.sampled_from([1, 7, 80]),
)
def test_objective_never_rises_and_grids_are_stored(
    seed: int, dtype: Dtype, kind: str, out: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = stored(rng.normal(size=(out, 64)).astype(np.float32), dtype)
    rank = 3 if kind == "singular" else None
    columns, diagonal = moment(rng, 64, rank), rng.uniform(0, 1, out).astype(np.float32)
    terms = {
        "free": (damped_term(columns, np.ones(out, np.float32)),),
        "two uses": (damped_term(columns, diagonal), damped_term(moment(rng, 64), 1 - diagonal)),
    }.get(kind, (damped_term(columns, moment(rng, out, rank)),))
    first, last = both(weight, terms, dtype)
    before, after = objectives(weight, first, terms), objectives(weight, last, terms)
    assert (after <= before * (1 + 1e-5)).all()
    for part, format_ in zip(last, FORMATS, strict=True):
        assert part.codes.max() < 2**format_.bits
        assert part.scales.shape == (out, 64 // format_.group_size)
        assert (part.scales != 0).all()
        assert np.array_equal(part.scales, stored(part.scales, dtype))
        assert np.array_equal(part.biases, stored(part.biases, dtype))


@pytest.mark.parametrize("is_coupled", [False, True])
def test_descent_lowers_the_objective_clearly(is_coupled: bool) -> None:  # noqa: FBT001 - a parameter
    rng = np.random.default_rng(5)
    weight = stored(rng.normal(size=(96, 64)).astype(np.float32), Dtype.BF16)
    rows = moment(rng, 96) if is_coupled else np.ones(96, np.float32)
    terms = (damped_term(moment(rng, 64), rows),)
    first, last = both(weight, terms, Dtype.BF16)
    before = objectives(weight, first, terms)
    assert (objectives(weight, last, terms) < 0.95 * before).all()


def test_zeros_and_constants_stay_exact() -> None:
    rng = np.random.default_rng(6)
    weight = np.zeros((4, 64), np.float32)
    weight[1:] = 0.75
    terms = (damped_term(moment(rng, 64), moment(rng, 4)),)
    for part in both(weight, terms, Dtype.BF16)[1]:
        assert np.abs(part.values - weight).max() < 1e-4


def test_inputs_that_never_came_and_nan_moments_count_as_equal() -> None:
    weight = np.random.default_rng(7).normal(size=(4, 64)).astype(np.float32)
    for odd in (np.zeros((64, 64)), np.full((64, 64), np.nan)):
        term = damped_term(odd, np.zeros(4, np.float32))
        assert np.array_equal(term.columns, np.eye(64))
        assert np.array_equal(term.rows, np.ones(4))
        assert all(np.isfinite(part.values).all() for part in both(weight, (term,), Dtype.BF16)[1])


def test_a_row_that_costs_nothing_keeps_its_codes() -> None:
    rng = np.random.default_rng(8)
    weight = rng.normal(size=(4, 64)).astype(np.float32)
    terms = (damped_term(moment(rng, 64), np.array([0, 1, 1, 1], np.float32)),)
    first, last = both(weight, terms, Dtype.BF16)
    for before, after in zip(first, last, strict=True):
        assert np.array_equal(before.values[0], after.values[0])
        assert not np.array_equal(before.values[1:], after.values[1:])


def uses(rng: np.random.Generator, count: int, out: int, width: int) -> ModuleStatistics:
    """Statistics of an ordinary module, or of an embedding with two uses."""
    terms = [
        KroneckerTerm(
            moment(rng, width),
            moment(rng, out) if count == 1 else rng.uniform(0, 1, out).astype(np.float32),
        )
        for _ in range(count)
    ]
    ones = np.ones(out), np.ones(width)
    return ModuleStatistics("m", 1.0, *ones, tuple(terms), np.array(1000))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("encoder", [Encoder.GPTQ, Encoder.YAQA])
def test_a_format_alone_has_the_bits_it_has_among_others(encoder: Encoder, count: int) -> None:
    rng = np.random.default_rng(9)
    weight = stored(rng.normal(size=(136, 256)).astype(np.float32), Dtype.BF16)
    module = ModuleEncoder(uses(rng, count, 136, 256), encoder)
    among = module.code(weight, Dtype.BF16, AFFINE_FORMATS, ())
    for format_ in AFFINE_FORMATS[::5]:
        alone = module.code(weight, Dtype.BF16, (format_,), ())[format_]
        assert np.array_equal(alone.codes, among[format_].codes)
        assert np.array_equal(alone.scales, among[format_].scales)
        assert np.array_equal(alone.biases, among[format_].biases)


def test_two_uses_are_weighed_row_by_row() -> None:
    rng = np.random.default_rng(10)
    weight = stored(rng.normal(size=(64, 64)).astype(np.float32), Dtype.BF16)
    known = uses(rng, 2, 64, 64)
    format_ = Format(FORMATS[0].mode, 3, 64)
    costs = [
        known.kl_nats(
            ModuleEncoder(known, encoder).code(weight, Dtype.BF16, (format_,), ())[format_].values
            - weight
        )
        for encoder in (Encoder.GPTQ, Encoder.YAQA)
    ]
    assert costs[1] < 0.99 * costs[0]


def test_blocks_of_rows_that_do_not_meet_get_the_bits_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(9)
    weight = rng.normal(size=(150, 128)).astype(np.float32)
    rows = np.exp(rng.normal(size=150)).astype(np.float32)
    terms = (damped_term(moment(rng, 128), rows), damped_term(moment(rng, 128), rows[::-1].copy()))
    feedback = Feedback.against(terms[0].columns, rows)
    formats = FORMATS[:2]
    whole = code_weight(weight, formats, Dtype.BF16, feedback, terms)
    monkeypatch.setattr(descent, "_BLOCK_ROWS", 64)
    blocks = code_weight(weight, formats, Dtype.BF16, feedback, terms)
    for found, expected in zip(blocks, whole, strict=True):
        assert np.array_equal(found.codes, expected.codes)
        assert np.array_equal(found.scales, expected.scales)
        assert np.array_equal(found.biases, expected.biases)
