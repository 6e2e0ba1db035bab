"""Compensated encoders: stored arrays, and less predicted KL than rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import (
    AFFINE_FORMATS,
    FLOAT_FORMATS,
    KEEP,
    Format,
    Mode,
    parse_format,
)
from bitbudget.app.core.inventory import Module, ModuleKind
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.curves.exact import kl_curve
from bitbudget.workers.encoders.compensated import Feedback, inverse_factor
from bitbudget.workers.encoders.descent import code_weight
from bitbudget.workers.encoders.gptq import encode_gptq
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.quadratic import Term
from bitbudget.workers.encoders.registry import ModuleEncoder, encode
from bitbudget.workers.fisher import KroneckerTerm, ModuleStatistics
from tests.workers.encoders.objective import stored

RNG = np.random.default_rng(0)


def moment(width: int, *lead: int) -> np.ndarray:
    mixing = RNG.normal(size=(*lead, width, width)) / np.sqrt(width)
    scale = np.exp(RNG.normal(size=(*lead, width, 1)))
    x = (mixing * scale).astype(np.float32)
    result: np.ndarray = x @ x.swapaxes(-1, -2)
    return result


def weights(*shape: int) -> np.ndarray:
    return stored(RNG.normal(size=shape).astype(np.float32), Dtype.BF16)


def bits_of(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def module_statistics(columns: np.ndarray, rows: np.ndarray) -> ModuleStatistics:
    lead = columns.shape[:-2]
    return ModuleStatistics(
        "m",
        1.0,
        np.ones(rows.shape[: len(lead) + 1]),
        np.ones(columns.shape[:-1]),
        (KroneckerTerm(columns, rows),),
        np.full(lead, 1000),
    )


def deployed(
    weight: np.ndarray, dtype: Dtype, format_: Format, encoder: Encoder, known: ModuleStatistics
) -> dict[str, np.ndarray]:
    module = ModuleEncoder(known, encoder)
    parts = [module.encode(weight[e], dtype, format_, (e,)) for e in range(len(weight))]
    return {suffix: np.stack([part[suffix] for part in parts]) for suffix in parts[0]}


@pytest.mark.parametrize("format_", AFFINE_FORMATS, ids=str)
def test_arrays_are_those_of_the_format_and_beat_rounding(format_: Format) -> None:
    weight, columns = weights(48, 128), moment(128)
    arrays = encode_gptq(weight, Dtype.BF16, format_, columns)
    for spec in format_.arrays(weight.shape, Dtype.BF16):
        assert arrays[spec.suffix].shape == spec.shape
        assert arrays[spec.suffix].nbytes == spec.nbytes
    term = KroneckerTerm(columns, np.ones(48, np.float32))
    plain = encode(bits_of(weight), Dtype.BF16, format_, Encoder.CAREFUL)
    ours = term.kl_nats(dequantize(arrays, format_, Dtype.BF16) - weight)
    theirs = term.kl_nats(dequantize(plain, format_, Dtype.BF16) - weight)
    assert ours < 0.9 * theirs


def test_two_sided_feedback_lowers_the_two_sided_cost() -> None:
    weight, columns, rows = weights(192, 128), moment(128), moment(192)
    format_ = parse_format("affine3g64")
    term = KroneckerTerm(columns, rows)
    costs = [
        term.kl_nats(
            dequantize(encode_gptq(weight, Dtype.BF16, format_, columns, b), format_, Dtype.BF16)
            - weight
        )
        for b in (None, rows)
    ]
    assert costs[1] < 0.9 * costs[0]


def test_curve_is_the_error_of_the_stored_arrays() -> None:
    weight, statistics = weights(3, 64, 64), module_statistics(moment(64, 3), moment(64, 3))
    module = Module("m", ModuleKind.SWITCH_LINEAR, (3, 64, 64), Dtype.BF16, "m")
    formats = (parse_format("affine4g32"), parse_format("affine2g64"), FLOAT_FORMATS[0], KEEP)
    for encoder in Encoder:
        points = {
            point.format: point for point in kl_curve(module, weight, formats, encoder, statistics)
        }
        assert points[KEEP].kl_nats == 0
        for format_ in formats[:3]:
            arrays = deployed(bits_of(weight), Dtype.BF16, format_, encoder, statistics)
            error = dequantize(arrays, format_, Dtype.BF16) - weight
            t2 = float(np.square(error).sum() / np.square(weight).sum())
            assert points[format_].t2 == pytest.approx(t2, rel=1e-2)
            assert points[format_].kl_nats == pytest.approx(statistics.kl_nats(error), rel=1e-2)


def test_an_expert_without_tokens_is_encoded_with_the_others_moment() -> None:
    columns, rows = moment(64, 3), moment(64, 3)
    columns[1], rows[1] = 0, 0
    statistics = ModuleStatistics(
        "m",
        1.0,
        np.ones((3, 64)),
        np.ones((3, 64)),
        (KroneckerTerm(columns, rows),),
        np.array([500, 0, 500]),
    )
    assert np.trace(statistics.second_moment[1]) > 0
    arrays = deployed(
        bits_of(weights(3, 64, 64)),
        Dtype.BF16,
        parse_format("affine4g64"),
        Encoder.YAQA,
        statistics,
    )
    assert arrays["weight"].shape == (3, 64, 8)


def test_singular_moment_is_damped() -> None:
    x = RNG.normal(size=(2, 64)).astype(np.float32)
    factor = inverse_factor(x.T @ x)
    assert np.isfinite(factor).all()
    assert (np.diagonal(factor) > 0).all()
    assert np.array_equal(inverse_factor(np.zeros((4, 4))), np.eye(4))
    assert np.array_equal(inverse_factor(np.full((4, 4), np.nan)), np.eye(4))


def test_float_formats_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="a format of integer codes"):
        encode_gptq(weights(4, 32), Dtype.BF16, FLOAT_FORMATS[0], moment(32))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4, 5, 6, 8]), st.floats(-30, 10))
def test_groups_are_never_worse_than_their_range(seed: int, bits: int, log_scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(5, 32)) * 2.0**log_scale).astype(np.float32)
    values[0] = values[0, 0]
    alone = Feedback(np.zeros((32, 32)), np.ones(32), None)
    term = Term(np.eye(32, dtype=np.float32), np.ones(5, np.float32))
    format_ = Format(Mode.AFFINE, bits, 32)
    (ours,) = code_weight(values, (format_,), Dtype.BF16, alone, (term,), sweeps=0)
    assert np.isfinite(ours.scales).all()
    assert (ours.scales != 0).all()
    low, high = values.min(1), values.max(1)
    start = stored(np.maximum((high - low) / np.float32(2**bits - 1), 1e-7), Dtype.BF16)[:, None]
    anchor = stored(low, Dtype.BF16)[:, None]
    peer = np.clip(np.rint((values - anchor) / start), 0, 2**bits - 1) * start + anchor - values
    squared = np.square(ours.values - values).sum(1)
    assert (squared <= (1 + 1e-4) * np.square(peer).sum(1) + 1e-20).all()


@pytest.mark.parametrize("is_expert", [False, True])
def test_what_a_few_tokens_happen_to_link_is_not_fitted(*, is_expert: bool) -> None:
    width, tokens = 64, 160
    rng = np.random.default_rng(5)
    seen = [rng.standard_normal((tokens, width)).astype(np.float32) for _ in range(2)]
    columns, rows = (x.T @ x / tokens for x in seen)
    weight = weights(width, width)
    lead = (1,) * is_expert
    own = module_statistics(columns.reshape(*lead, width, width), rows.reshape(*lead, width, width))
    lost = []
    for count in (tokens, 10**9):
        known = replace(own, tokens=np.full(lead, count))
        formats, index = [parse_format("affine3g32")], (0,) * is_expert
        coded = ModuleEncoder(known, Encoder.YAQA).code(weight, Dtype.BF16, formats, index)
        error = coded[formats[0]].values - weight
        lost.append((known.terms[0].part(index).kl_nats(error), float(np.square(error).sum())))
    assert lost[0][0] > lost[1][0]
    assert lost[0][1] < 0.97 * lost[1][1], "of inputs and outputs that nothing links"


def test_many_tokens_leave_an_expert_its_own_factors() -> None:
    columns, rows = moment(32, 2), moment(32, 2)
    known = replace(module_statistics(columns, rows), tokens=np.full(2, 10_000_000))
    np.testing.assert_allclose(known.feedback_rows((1,)), rows[1], rtol=1e-4, atol=1e-6)
    unit = columns[0] / np.trace(columns[0])
    np.testing.assert_allclose(known.second_moment[0], unit, rtol=1e-3, atol=1e-6)


def test_an_expert_that_saw_one_token_has_rows_that_nothing_links() -> None:
    columns, rows = moment(32, 2), moment(32, 2)
    known = replace(module_statistics(columns, rows), tokens=np.array([1, 1000]))
    found = known.feedback_rows((0,))
    np.testing.assert_array_equal(np.diagonal(found), np.diagonal(rows[0]))
    assert np.abs(found - np.diag(np.diagonal(found))).max() < 0.01 * np.abs(rows[0]).max()
