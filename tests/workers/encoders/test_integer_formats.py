"""Formats of our own runtime: what is stored, what it means in MLX, and what it is worth."""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from bitbudget import own_formats
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import AFFINE_FORMATS, OWN_FORMATS, Format, Mode, parse_format
from bitbudget.workers.encoders import descent, integer_formats
from bitbudget.workers.encoders.number_formats import dequantize, store
from bitbudget.workers.encoders.target import Target
from bitbudget.workers.native.arrays import element_type, from_float32, to_float32
from bitbudget.workers.native.loader import kernels, supported_variants

MLX_TYPES = {Dtype.U32: mx.uint32, Dtype.U8: mx.uint8, Dtype.BF16: mx.bfloat16}
TWO_LEVEL = [format_ for format_ in OWN_FORMATS if format_.mode is Mode.TWO_LEVEL]


def gaussian(*shape: int, dtype: Dtype = Dtype.BF16) -> np.ndarray:
    values = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    return from_float32(values, dtype)


def as_mlx(
    arrays: dict[str, np.ndarray], format_: Format, shape: tuple[int, ...]
) -> dict[str, mx.array]:
    kinds = {spec.suffix: spec.dtype for spec in format_.arrays(shape, Dtype.BF16)}
    return {name: mx.array(array).view(MLX_TYPES[kinds[name]]) for name, array in arrays.items()}


@pytest.mark.parametrize("format_", OWN_FORMATS, ids=str)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((5, 128), Dtype.BF16), ((2, 33, 384), Dtype.F16)],
    ids=str,
)
def test_stored_arrays_are_those_that_are_planned_and_mlx_reads_them(
    format_: Format, shape: tuple[int, ...], dtype: Dtype
) -> None:
    weight = gaussian(*shape, dtype=dtype)
    arrays = store(weight, dtype, format_, careful=True)
    specs = format_.arrays(shape, dtype)
    assert [(s.suffix, s.shape) for s in specs] == [(n, a.shape) for n, a in arrays.items()]
    assert all(arrays[s.suffix].dtype == _carried(s.dtype) for s in specs)
    groups = (*shape[:-1], shape[-1] // format_.group_size)
    read = own_formats._SHAPES[format_.mode.value](groups, shape[-1])
    assert {
        n: (s, MLX_TYPES[k]) for n, s, k in ((p.suffix, p.shape, p.dtype) for p in specs[1:])
    } == read
    ours = dequantize(arrays, format_, dtype)
    found = own_formats.dequantize(
        as_mlx(arrays, format_, shape), format_.mode.value, format_.bits, format_.group_size
    )
    assert np.array_equal(ours, np.array(found))
    original = to_float32(weight, dtype)
    assert np.square(ours - original).sum() < most(format_) * np.square(original).sum()


def most(format_: Format) -> float:
    """Return a bound for the share of a Gaussian's energy that coding loses."""
    return 0.12 if format_.bits == 2 else 0.03


def _carried(dtype: Dtype) -> np.dtype:
    return np.dtype({Dtype.U32: np.uint32, Dtype.U8: np.uint8}.get(dtype) or element_type(dtype))


@pytest.mark.parametrize("format_", OWN_FORMATS, ids=str)
def test_zeros_constants_and_one_sided_weights_are_kept_apart(format_: Format) -> None:
    weight = np.zeros((4, 256), np.float32)
    weight[1] = 0.25
    weight[2] = np.linspace(-1, 0, 256)
    stored = dequantize(
        store(from_float32(weight, Dtype.BF16), Dtype.BF16, format_, careful=True),
        format_,
        Dtype.BF16,
    )
    assert not stored[[0, 3]].any()
    assert np.abs(stored[1] - 0.25).max() < 2e-3
    assert np.square(stored[2] - weight[2]).sum() < 0.01 * np.square(weight[2]).sum()


@pytest.mark.parametrize("encoder", ["careful", "gptq"])
def test_two_level_scales_beat_the_affine_hull_at_equal_bytes(encoder: str) -> None:
    """Squared error (with A, of gptq) over that of affine formats mixed to the same bytes."""
    weight = gaussian(256, 512)
    values = to_float32(weight, Dtype.BF16)
    inputs = np.random.default_rng(3).standard_normal((1024, 512)).astype(np.float32)
    moment = inputs.T @ inputs / 1024
    moment += 0.3 * moment @ moment
    target = Target(moment, ((moment, np.ones(256, np.float32)),), np.ones(256, np.float32))

    def error(format_: Format) -> float:
        if encoder == "careful":
            stored = dequantize(
                store(weight, Dtype.BF16, format_, careful=True), format_, Dtype.BF16
            )
            return float(np.square(stored - values).sum())
        coded = target.code(values, (format_,), Dtype.BF16)[format_]
        assert np.array_equal(
            coded.values, dequantize(coded.arrays(format_, Dtype.BF16), format_, Dtype.BF16)
        )
        lost = coded.values - values
        return float(np.sum(lost * (lost @ moment)))

    def rate(format_: Format) -> float:
        return format_.data_bytes(values.shape, Dtype.BF16) * 8 / values.size

    hull: list[tuple[float, float]] = []
    for point in sorted((rate(f), error(f)) for f in AFFINE_FORMATS):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) > _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    assert all(b > a for (a, _), (b, _) in pairwise(hull))
    expected = {"two3g16": 0.725, "two3g32": 0.80, "two4g16": 0.695, "two4g32": 0.76}
    expected |= {"two2g16": 0.87, "two2g32": 0.92, "two5g16": 0.735, "two5g32": 0.79}
    for name, most in expected.items():
        format_ = parse_format(name)
        mixed = float(np.interp(rate(format_), [b for b, _ in hull], [e for _, e in hull]))
        assert error(format_) / mixed < most, name


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


@pytest.mark.parametrize("format_", TWO_LEVEL[::3], ids=str)
def test_spans_that_256_does_not_divide_are_moved_whole(format_: Format) -> None:
    """Columns of falling importance: the order moves groups, and the last span stays the last."""
    values = to_float32(gaussian(40, 608), Dtype.BF16)
    moment = np.diag(np.random.default_rng(5).uniform(0.1, 10, 608)).astype(np.float32)
    free = np.ones(40, np.float32)
    coded = Target(moment, ((moment, free),), free).code(values, (format_,), Dtype.BF16)[format_]
    assert coded.spans is not None
    assert coded.spans.shape == (40, 3, 2)
    stored = dequantize(coded.arrays(format_, Dtype.BF16), format_, Dtype.BF16)
    assert np.array_equal(stored, coded.values)
    assert np.square(stored - values).sum() < most(format_) * np.square(values).sum()


@pytest.mark.skipif(len(supported_variants()) < 2, reason="one variant runs here")
def test_all_processors_choose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = to_float32(gaussian(64, 512), Dtype.BF16)
    inputs = np.random.default_rng(4).standard_normal((700, 512)).astype(np.float32)
    moment, free = inputs.T @ inputs / 700, np.ones(64, np.float32)
    found = []
    for name in supported_variants():
        for module in (descent, integer_formats):
            monkeypatch.setattr(module, "kernels", lambda name=name: kernels(name))
        target = Target(moment, ((moment, free),), free)
        coded = target.code(values, OWN_FORMATS, Dtype.BF16)
        plain = [store(gaussian(9, 96), Dtype.BF16, f, careful=True) for f in TWO_LEVEL]
        arrays = [*(c.arrays(f, Dtype.BF16) for f, c in coded.items()), *plain]
        found.append([a.tobytes() for one in arrays for a in one.values()])
    assert found[0] == found[-1]
