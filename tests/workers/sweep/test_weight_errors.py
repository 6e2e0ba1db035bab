from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.app.core.formats import (
    AFFINE_FORMATS,
    ALL_FORMATS,
    FLOAT_FORMATS,
    KEEP,
    Format,
    Mode,
)
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.packing import unpack
from bitbudget.workers.encoders.registry import encode
from bitbudget.workers.native.arrays import Array, from_float32, to_float32
from bitbudget.workers.native.loader import kernels, supported_variants
from bitbudget.workers.sweep import kernel, measure_weight
from bitbudget.workers.sweep import plan as plan_module
from bitbudget.workers.sweep.plan import plan_sweep
from bitbudget.workers.sweep.reference import affine_error

ENCODERS = (Encoder.MINMAX, Encoder.CAREFUL)
FLOATS = (Dtype.BF16, Dtype.F16, Dtype.F32)


def heavy_tailed(shape: tuple[int, ...], dtype: Dtype, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    rows = np.exp(0.5 * rng.standard_normal((shape[0], 1)))
    return from_float32((0.02 * rows * rng.standard_t(5, size=shape)).astype(np.float32), dtype)


def energy(weight: Array, dtype: Dtype) -> float:
    return float((to_float32(weight, dtype).astype(np.float64) ** 2).sum())


def dequantized_error(weight: Array, dtype: Dtype, format_: Format, encoder: Encoder) -> float:
    arrays = encode(weight, dtype, format_, encoder)
    codes = unpack(arrays["weight"], format_.bits).astype(np.float64)
    groups = codes.reshape(-1, format_.group_size)
    scale, bias = (to_float32(arrays[name], dtype).reshape(-1, 1) for name in ("scales", "biases"))
    truth = to_float32(weight, dtype).reshape(-1, format_.group_size)
    return float(((groups * scale + bias - truth) ** 2).sum())


@pytest.mark.parametrize("dtype", FLOATS)
def test_minmax_errors_match_the_reference(dtype: Dtype) -> None:
    weight = heavy_tailed((96, 640), dtype)
    measured = measure_weight([weight], dtype, AFFINE_FORMATS, Encoder.MINMAX)
    for format_ in AFFINE_FORMATS:
        reference = affine_error(weight, dtype, format_) / energy(weight, dtype)
        tolerance = 1e-3 if format_.bits == 6 else 1e-5
        assert measured.t2[format_] == pytest.approx(reference, rel=tolerance), format_


def known_of_chunks(weight: Array, dtype: Dtype) -> Array:
    """What `careful` is estimated from, (12, chunks): half the squared range and bounded noise."""
    rows = []
    for size in (32, 64, 128):
        groups = to_float32(weight, dtype).astype(np.float64).reshape(-1, 128 // size, size)
        low, high = groups.min(-1), groups.max(-1)
        inner = np.maximum((groups**2).sum(-1) - low**2 - high**2, 0)
        rows.append((high - low) ** 2 / 2)
        for bits in (2, 3, 4):
            noise = size / 12 * ((high - low) / (2**bits - 1)) ** 2
            rows.append(inner * noise / np.maximum(inner + noise, 1e-30))
    return np.array([row.sum(-1) for row in rows])


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_known_of_chunks_matches_numpy(dtype: Dtype) -> None:
    weight = heavy_tailed((96, 640), dtype)
    weight[3] = weight[3, 0]
    plan = plan_sweep(dtype, 640, weight.size, AFFINE_FORMATS, encoder=Encoder.CAREFUL)
    sample = kernel.sweep_segment(weight.reshape(-1), replace(plan, weights_per_draw=512)).sample
    assert sample is not None
    expected = known_of_chunks(weight, dtype)
    assert np.allclose(sample.known_whole, expected.sum(-1), rtol=1e-5)
    assert len(sample.known) > 50
    for known in sample.known:
        assert np.isclose(expected.T, known, rtol=1e-4).all(-1).any()


def test_constant_chunks_among_sampled_ones_have_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = heavy_tailed((1024, 1024), Dtype.BF16)
    weight[::2] = weight[::2, :1]
    sampled = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.CAREFUL)
    monkeypatch.setattr(plan_module, "EXACT_BELOW_WEIGHTS", weight.size + 1)
    exact = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.CAREFUL)
    for format_ in AFFINE_FORMATS:
        assert sampled.t2[format_] == pytest.approx(exact.t2[format_], rel=0.02), format_


@pytest.mark.parametrize("dtype", FLOATS)
def test_careful_errors_are_those_of_what_it_encodes(dtype: Dtype) -> None:
    weight = heavy_tailed((64, 384), dtype)
    measured = measure_weight([weight], dtype, AFFINE_FORMATS, Encoder.CAREFUL)
    plain = measure_weight([weight], dtype, AFFINE_FORMATS, Encoder.MINMAX)
    for format_ in AFFINE_FORMATS:
        error = dequantized_error(weight, dtype, format_, Encoder.CAREFUL)
        assert measured.t2[format_] == pytest.approx(error / energy(weight, dtype), rel=1e-4)
        assert measured.t2[format_] < plain.t2[format_]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_float_formats_match_what_mlx_decodes(encoder: Encoder) -> None:
    mx = pytest.importorskip("mlx.core")
    weight = heavy_tailed((64, 512), Dtype.BF16)
    measured = measure_weight([weight], Dtype.BF16, FLOAT_FORMATS, encoder)
    for format_ in FLOAT_FORMATS:
        arrays = encode(weight, Dtype.BF16, format_, encoder)
        decoded = mx.dequantize(
            mx.array(arrays["weight"]),
            mx.array(arrays["scales"]),
            None,
            format_.group_size,
            format_.bits,
            mode=format_.mode.value,
            dtype=mx.float32,
        )
        truth = to_float32(weight, Dtype.BF16).astype(np.float64)
        error = ((np.array(decoded) - truth) ** 2).sum() / (truth**2).sum()
        assert measured.t2[format_] == pytest.approx(error, rel=1e-5), format_


def test_a_stack_in_parts_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SEGMENT_WEIGHTS", 4096)
    weight = heavy_tailed((6 * 48, 128), Dtype.BF16).reshape(6, 48, 128)
    whole = measure_weight([weight], Dtype.BF16, ALL_FORMATS, Encoder.CAREFUL)
    parts = [weight[0], weight[1:5], weight[5]]
    assert measure_weight(parts, Dtype.BF16, ALL_FORMATS, Encoder.CAREFUL) == whole


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_part_of_a_block_does_not_depend_on_what_was_measured_before(encoder: Encoder) -> None:
    """Groups past the end must not be what memory happens to hold, such as vanishing ones."""
    weight = heavy_tailed((16, 128), Dtype.BF16)
    tiny = np.full((32, 128), 3, np.uint16)
    huge = heavy_tailed((32, 128), Dtype.BF16, seed=1)
    found = []
    for before in (huge, tiny, huge):
        measure_weight([before], Dtype.BF16, ALL_FORMATS, encoder)
        found.append(measure_weight([weight], Dtype.BF16, ALL_FORMATS, encoder))
    assert found[0] == found[1] == found[2]


def test_every_variant_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = heavy_tailed((40, 1024), Dtype.BF16)
    results = []
    for variant in supported_variants():
        chosen = kernels(variant)
        monkeypatch.setattr(kernel, "kernels", lambda chosen=chosen: chosen)
        results.append([measure_weight([weight], Dtype.BF16, ALL_FORMATS, e) for e in ENCODERS])
    assert results[1:] == results[:-1]


def test_a_sampled_estimate_is_within_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = heavy_tailed((1024, 4096), Dtype.BF16)
    with monkeypatch.context() as patched:
        patched.setattr(plan_module, "EXACT_BELOW_WEIGHTS", weight.size + 1)
        exact = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.CAREFUL)
    assert not exact.t2_relative_error
    sampled = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.CAREFUL)
    for format_ in AFFINE_FORMATS:
        off = sampled.t2[format_] / exact.t2[format_] - 1
        assert 0 < sampled.t2_relative_error[format_] < 0.005
        assert abs(off) < 4 * sampled.t2_relative_error[format_], format_


@pytest.mark.parametrize(("shape", "step"), [((2048, 2048), 4096), ((1024, 1024), 193)])
def test_reported_errors_cover_the_true_ones_over_many_weights(
    shape: tuple[int, int], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    offs, reported = [], []
    for seed in range(8):
        weight = heavy_tailed(shape, Dtype.BF16, seed)
        weight[:, ::step] += 3 << 7  # times 8
        with monkeypatch.context() as patched:
            patched.setattr(plan_module, "EXACT_BELOW_WEIGHTS", weight.size + 1)
            exact = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.CAREFUL)
        sampled = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.CAREFUL)
        offs.append([sampled.t2[f] / exact.t2[f] - 1 for f in AFFINE_FORMATS])
        reported.append([sampled.t2_relative_error[f] for f in AFFINE_FORMATS])
    true_rms = np.sqrt((np.array(offs) ** 2).mean(0))
    reported_rms = np.sqrt((np.array(reported) ** 2).mean(0))
    assert true_rms.max() <= 0.005
    assert reported_rms.max() <= 0.005
    assert np.all(true_rms <= 2 * reported_rms)


def test_features_match_numpy() -> None:
    weight = heavy_tailed((64, 4096), Dtype.F32)
    features = measure_weight([weight], Dtype.F32, (), Encoder.MINMAX).features
    exact = weight.astype(np.float64)
    centred = exact - exact.mean()
    rms = np.sqrt((exact**2).mean())
    groups = exact.reshape(-1, 128)
    kurtosis = (groups**4).mean(-1) / (groups**2).mean(-1) ** 2 - 3
    outliers = np.abs(exact) > 3 * np.sqrt((exact**2).mean(-1, keepdims=True))
    assert features["rms"] == pytest.approx(rms, rel=1e-6)
    assert features["mean"] == pytest.approx(exact.mean(), abs=1e-6 * rms)
    assert features["max_over_rms"] == pytest.approx(np.abs(exact).max() / rms, rel=1e-6)
    assert features["kurtosis"] == pytest.approx(
        (centred**4).mean() / (centred**2).mean() ** 2 - 3, rel=1e-4
    )
    assert features["kurtosis_group_p90"] == pytest.approx(np.quantile(kurtosis, 0.9), rel=0.03)
    assert features["outlier_fraction"] == pytest.approx(outliers.mean(), rel=1e-3)


def test_a_rotated_weight_is_measured_rotated() -> None:
    weight = heavy_tailed((32, 192), Dtype.BF16)
    weight[:, 5] = from_float32(np.full(32, 3, np.float32), Dtype.BF16)
    rng = np.random.default_rng(1)
    signs = rng.choice(np.array([-1, 1], np.float32), 192)
    hadamard = np.array([[1.0]])
    while len(hadamard) < 32:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    blocks = (to_float32(weight, Dtype.BF16) * signs).reshape(-1, 32)
    exact = (blocks @ hadamard / np.sqrt(32)).astype(np.float32).reshape(weight.shape)
    plan = plan_sweep(
        Dtype.BF16, 192, weight.size, AFFINE_FORMATS[:2], encoder=Encoder.MINMAX, signs=signs
    )
    rotated = kernel.rotate(weight.reshape(-1), plan).reshape(weight.shape)
    assert np.allclose(to_float32(rotated, Dtype.BF16), exact, rtol=2**-8, atol=1e-6)
    formats = [format_ for format_ in AFFINE_FORMATS if format_.group_size < 128]
    measured = measure_weight([weight], Dtype.BF16, formats, Encoder.MINMAX, signs=signs)
    assert measured.t2 == measure_weight([rotated], Dtype.BF16, formats, Encoder.MINMAX).t2


def test_nan_and_infinity_name_the_module() -> None:
    weight = heavy_tailed((32, 128), Dtype.BF16)
    weight[3, 7] = 0x7FC0
    weight[4, 7] = 0x7F80
    with pytest.raises(InvalidModelError, match=r"layers\.0\.up: found 1 NaN and 1 infinite"):
        measure_weight([weight], Dtype.BF16, ALL_FORMATS, Encoder.CAREFUL, name="layers.0.up")


def test_weights_whose_squares_overflow_are_refused() -> None:
    weight = np.full((2, 128), 1e30, np.float32)
    with pytest.raises(InvalidModelError, match=r"1e\+30"):
        measure_weight([weight], Dtype.F32, AFFINE_FORMATS, Encoder.MINMAX)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 1e-6])
def test_constant_groups_are_exact(value: float, encoder: Encoder) -> None:
    weight = np.full((8, 128), value, np.float32)
    measured = measure_weight([weight], Dtype.F32, AFFINE_FORMATS, encoder)
    assert max(measured.t2.values()) == 0


def test_groups_below_the_smallest_scale_vanish() -> None:
    """The floor of the scale turns them into zeros, next to groups that are not small."""
    weight = heavy_tailed((4, 128), Dtype.F32).copy()
    weight[2] = 1e-9
    measured = measure_weight([weight], Dtype.F32, AFFINE_FORMATS, Encoder.MINMAX)
    for format_ in AFFINE_FORMATS:
        reference = affine_error(weight, Dtype.F32, format_)
        assert measured.t2[format_] * energy(weight, Dtype.F32) == pytest.approx(
            reference, rel=1e-3
        )


def test_denormal_weights_vanish_and_nothing_is_nan() -> None:
    weight = np.full((4, 128), 3, np.uint16)
    measured = measure_weight([weight], Dtype.BF16, ALL_FORMATS, Encoder.CAREFUL)
    assert {t2 for format_, t2 in measured.t2.items() if format_ != KEEP} == {1.0}
    assert all(np.isfinite(value) for value in measured.features.values())


def test_odd_widths_have_features_and_no_format() -> None:
    weight = heavy_tailed((7, 43), Dtype.F32)
    measured = measure_weight([weight], Dtype.F32, (KEEP,), Encoder.CAREFUL)
    assert measured.t2 == {KEEP: 0.0}
    assert measured.features["rms"] == pytest.approx(np.sqrt(energy(weight, Dtype.F32) / 301))


def test_an_empty_weight_has_nothing_to_measure() -> None:
    measured = measure_weight(
        [np.empty((0, 64), np.float32)], Dtype.F32, (Format(Mode.AFFINE, 4, 64),), Encoder.CAREFUL
    )
    assert set(measured.t2.values()) == {0.0}
    assert measured.features == {}


def test_a_format_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="multiple of 64"):
        measure_weight(
            [np.ones((2, 96), np.float32)],
            Dtype.F32,
            (Format(Mode.AFFINE, 4, 64),),
            Encoder.MINMAX,
        )


def test_integer_weights_are_refused() -> None:
    with pytest.raises(InvalidModelError, match="dtype I8"):
        measure_weight([np.ones((2, 64), np.int8)], Dtype.I8, (), Encoder.MINMAX)


def test_compensated_encoders_are_not_measured_here() -> None:
    with pytest.raises(InvalidRequestError, match="minmax or careful"):
        measure_weight([np.ones((2, 64), np.float32)], Dtype.F32, (), Encoder.GPTQ)


def test_full_features_tell_what_a_rotation_would_change() -> None:
    """An outlier channel spoils its groups; a block-32 rotation spreads it."""
    weight = heavy_tailed((64, 256), Dtype.BF16)
    weight[:, 5] = from_float32(np.full(64, 2, np.float32), Dtype.BF16)
    plain = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.MINMAX)
    full = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.MINMAX, full=True)
    assert full.t2 == plain.t2
    assert not any(name.startswith("rotated") for name in plain.features)
    signs = kernel.random_signs(256)
    rotated = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.MINMAX, signs=signs)
    for format_ in AFFINE_FORMATS:
        found = full.features[f"rotated_t2_{format_}"]
        assert found == pytest.approx(rotated.t2[format_], rel=1e-3)
    assert full.features["rotated_t2_affine4g128"] != plain.t2[Format(Mode.AFFINE, 4, 128)]
