"""Curves of large modules: estimates that agree with the exact ones within what they say."""

from __future__ import annotations

import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import (
    ALL_FORMATS,
    FLOAT_FORMATS,
    KEEP,
    OWN_FORMATS,
    Format,
    parse_format,
)
from bitbudget.app.core.inventory import Module, ModuleKind
from bitbudget.app.core.measurement import CurvePoint, Encoder
from bitbudget.workers.curves.anchors import Gain, anchor_formats, between_anchors
from bitbudget.workers.curves.exact import kl_curve
from bitbudget.workers.curves.row_feedback import COLUMNS, coupling_gains, typical_columns
from bitbudget.workers.curves.sampled import SAMPLE, SampleSize, sampled_curve
from bitbudget.workers.fisher import KroneckerTerm, ModuleStatistics
from bitbudget.workers.native.arrays import as_float32, from_float32

FORMATS = (*(parse_format(name) for name in ("affine2g64", "affine4g32", "affine6g128")), KEEP)
SMALL = SampleSize(more_than=0, rows=64, anchored=0, experts=12, expert_rows=16)
ANCHORED = SampleSize(more_than=0, rows=64)


def moment(rng: np.random.Generator, size: int, *lead: int) -> np.ndarray:
    scale = np.exp(rng.normal(size=(*lead, size, 1))) / np.sqrt(size)
    x = (rng.normal(size=(*lead, size, 2 * size)) * scale).astype(np.float32)
    result: np.ndarray = x @ x.swapaxes(-1, -2) / np.float32(size)
    return result


def problem(
    seed: int, shape: tuple[int, ...], *, whole: bool
) -> tuple[Module, list[np.ndarray], ModuleStatistics]:
    rng = np.random.default_rng(seed)
    *lead, out, width = shape
    weight = rng.standard_t(6, size=shape) * np.exp(0.5 * rng.normal(size=(*lead, out, 1)))
    rows = moment(rng, out, *lead)
    if not whole:
        rows = np.ascontiguousarray(np.diagonal(rows, axis1=-2, axis2=-1))
    sums = np.ones((*lead, out)), np.ones((*lead, width))
    terms = (KroneckerTerm(moment(rng, width, *lead), rows),)
    known = ModuleStatistics("m", 1.0, *sums, terms, np.full(lead, 10_000))
    carried = from_float32(weight.astype(np.float32), Dtype.BF16)
    kind = ModuleKind.SWITCH_LINEAR if lead else ModuleKind.LINEAR
    module = Module("m", kind, shape, Dtype.BF16, "m")
    return module, list(carried) if lead else [carried], known


def both(
    shape: tuple[int, ...],
    encoder: Encoder,
    formats: tuple[Format, ...] = FORMATS,
    *,
    whole: bool,
    size: SampleSize = SMALL,
) -> list[tuple[CurvePoint, CurvePoint]]:
    module, parts, known = problem(0, shape, whole=whole)
    found = sampled_curve(module, parts, formats, encoder, known, size=size)
    values = as_float32(np.stack(parts).reshape(shape), Dtype.BF16)
    exact = kl_curve(module, values, formats, encoder, known)[:-1]
    assert [point.format for point in found] == [point.format for point in exact]
    return list(zip(found, exact, strict=True))


@pytest.mark.parametrize("encoder", [Encoder.GPTQ, Encoder.CAREFUL])
def test_an_estimate_is_as_close_as_it_says(encoder: Encoder) -> None:
    formats = (*FORMATS[:3], FLOAT_FORMATS[0], KEEP)
    for found, exact in both((768, 256), encoder, formats, whole=False):
        assert 0 < found.t2_relative_error < 0.1
        assert found.kl_nats == pytest.approx(exact.kl_nats, rel=4 * found.t2_relative_error)
        assert found.t2 == pytest.approx(exact.t2, rel=4 * found.t2_relative_error)


def test_what_rows_gain_from_each_other_is_seen_from_some_columns() -> None:
    shape = (256, 512)
    alone = both(shape, Encoder.GPTQ, whole=True)
    for (found, exact), (_, apart) in zip(
        both(shape, Encoder.YAQA, whole=True), alone, strict=True
    ):
        assert exact.kl_nats < 0.85 * apart.kl_nats
        assert found.kl_nats == pytest.approx(exact.kl_nats, rel=2 * found.t2_relative_error)
        assert found.t2 == pytest.approx(exact.t2, rel=2 * found.t2_relative_error)


def test_a_matrix_that_is_coded_whole_in_two_formats_is_known_closely_in_the_others() -> None:
    formats = tuple(f for f in ALL_FORMATS if f == KEEP or f.bits > 2)
    for shape in ((256, 512), (768, 128)):
        pairs = both(shape, Encoder.YAQA, formats, whole=True, size=ANCHORED)
        certain = {found.format for found, _ in pairs if found.t2_relative_error == 0}
        assert certain == set(FLOAT_FORMATS)
        for found, exact in pairs:
            doubt = 3 * found.t2_relative_error + 1e-5
            assert found.kl_nats == pytest.approx(exact.kl_nats, rel=doubt)
            own = found.format in OWN_FORMATS  # their t2 follows that of the anchors less closely
            assert found.t2 == pytest.approx(exact.t2, rel=0.25 if own else doubt)


def test_gains_are_interpolated_in_bits() -> None:
    formats = tuple(parse_format(f"affine{bits}g64") for bits in (2, 3, 4, 6, 8))
    anchors = anchor_formats((*formats, FLOAT_FORMATS[0]))
    assert anchors == (formats[1], formats[3])
    known = {anchors[0]: Gain(0.5, 1.0), anchors[1]: Gain(4.0, 1.0)}
    found = between_anchors((*formats, FLOAT_FORMATS[0]), known)
    assert [round(found[f].kl, 6) for f in formats] == [0.5, 0.5, 1.0, 4.0, 4.0]
    assert FLOAT_FORMATS[0] not in found
    assert anchor_formats(FLOAT_FORMATS) == ()
    assert anchor_formats((formats[2],)) == (formats[2],)


def test_experts_are_sampled() -> None:
    for found, exact in both((24, 64, 128), Encoder.YAQA, whole=True):
        assert found.kl_nats == pytest.approx(exact.kl_nats, rel=3 * found.t2_relative_error)
        assert found.t2 == pytest.approx(exact.t2, rel=3 * found.t2_relative_error)


def test_an_expert_without_tokens_costs_nothing() -> None:
    module, parts, known = problem(1, (8, 64, 128), whole=True)
    known.terms[0].columns[3], known.terms[0].rows[3], known.tokens[3] = 0, 0, 0
    size = SampleSize(more_than=0, rows=64, experts=40, expert_rows=16)
    found = sampled_curve(module, parts, FORMATS, Encoder.YAQA, known, size=size)
    values = as_float32(np.stack(parts), Dtype.BF16)
    for point, exact in zip(
        found, kl_curve(module, values, FORMATS, Encoder.YAQA, known), strict=False
    ):
        assert point.kl_nats == pytest.approx(exact.kl_nats, rel=0.03)


def test_moments_of_some_experts_are_those_of_all() -> None:
    _, _, known = problem(5, (8, 16, 64), whole=True)
    known.tokens[2:4] = 0, 5
    some = known.expert_moments([(1,), (2,), (3,)])
    for index, moment_of_one in some.items():
        expected = known.second_moment[index]
        assert np.abs(moment_of_one - expected).max() < 1e-5 * np.abs(expected).max()
    known.tokens[:] = 0
    assert np.array_equal(known.expert_moments([(4,)])[4,], np.eye(64))


def test_the_sample_is_the_same_on_every_run() -> None:
    module, parts, known = problem(2, (256, 128), whole=True)
    first, second = (
        sampled_curve(module, parts, FORMATS, Encoder.YAQA, known, size=SMALL) for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(("encoder", "left"), [(Encoder.YAQA, 0.02), (Encoder.CAREFUL, 0.0)])
def test_all_rows_are_exact_but_for_sweeps_where_rows_do_not_meet(
    encoder: Encoder, left: float
) -> None:
    module, parts, known = problem(3, (96, 128), whole=False)
    size = SampleSize(more_than=0, rows=96)
    exact = kl_curve(module, as_float32(parts[0], Dtype.BF16), FORMATS, encoder, known)
    for found, point in zip(
        sampled_curve(module, parts, FORMATS, encoder, known, size=size), exact, strict=False
    ):
        assert found.t2_relative_error == left
        assert found.kl_nats == pytest.approx(point.kl_nats, rel=1e-5 + 2 * left)
        assert found.t2 == pytest.approx(point.t2, rel=1e-5 + 2 * left)


def test_small_modules_are_not_sampled() -> None:
    sampled = [(1025, 1024), (151936, 4096), (256, 576), (1024, 256), (128, 768, 2048)]
    exact = [(256, 256), (192, 8192), (8, 256, 256), (8, 128, 2048)]
    assert all(SAMPLE.takes(shape) for shape in sampled)
    assert not any(SAMPLE.takes(shape) for shape in exact)


def test_more_rows_are_drawn_where_the_whole_does_not_correct_them() -> None:
    assert SAMPLE.rows_of((1536, 576), coupled=True) == 64
    assert SAMPLE.rows_of((4096, 4096), coupled=True) == 256
    assert SAMPLE.rows_of((49152, 576), coupled=False) == 3640
    assert SAMPLE.rows_of((400, 576), coupled=False) == 100


def test_gains_come_from_columns_that_carry_something() -> None:
    diagonal = np.ones(4 * COLUMNS, np.float32)
    diagonal[:COLUMNS], diagonal[COLUMNS : 2 * COLUMNS] = 0, 1000
    some = typical_columns(np.diag(diagonal))
    assert some.start >= 2 * COLUMNS
    assert some.stop - some.start == COLUMNS
    assert typical_columns(np.eye(96)) == slice(0, 96)
    assert typical_columns(np.zeros((2 * COLUMNS, 2 * COLUMNS))) == slice(0, COLUMNS)


def test_without_couplings_there_is_no_gain() -> None:
    rng = np.random.default_rng(4)
    weight, rows = rng.normal(size=(64, 128)).astype(np.float32), np.eye(64, dtype=np.float32)
    gains = coupling_gains(
        weight, Dtype.BF16, FORMATS[:3], moment(rng, 128), rows, seen=rows, width=512
    )
    for gain in gains.values():
        assert gain.kl == pytest.approx(1, abs=0.02)
        assert gain.logarithm < 0.07
