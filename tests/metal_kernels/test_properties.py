"""What the kernels compute, against float64, over shapes and values that break kernels."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.metal_kernels import rd_sweep, rht32, rht_qmm, rht_qmv, rms_norm_rht, swiglu_rht
from bitbudget.metal_kernels.blocks import KernelInputError
from bitbudget.metal_kernels.kernel import TOLERANCE
from bitbudget.metal_kernels.launch import Launch
from bitbudget.metal_kernels.rd_sweep import COLUMNS
from bitbudget.metal_kernels.rht_matmul import BITS, GROUP_SIZES
from tests.metal_emulator.emulate import emulate, to_numpy
from tests.metal_emulator.exact import butterfly, dequantized, hadamard, to_float64
from tests.metal_emulator.machine import Array

pytestmark = pytest.mark.usefixtures("emulator")

DTYPES = (mx.float32, mx.float16, mx.bfloat16)
EPSILON = {mx.float32: 2.0**-23, mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}
SCALE = mx.full((64,), 32**-0.5)


def first(launch: Launch, **options: Any) -> mx.array:
    return emulate(launch, **options).outputs[0]


def quantized(outputs: int, width: int, bits: int, group: int, seed: int = 0) -> list[mx.array]:
    weight = mx.random.normal((outputs, width), key=mx.random.key(seed)).astype(mx.bfloat16)
    return list(mx.quantize(weight, group_size=group, bits=bits))


def rows(count: int, width: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal((count, width), key=mx.random.key(7)).astype(dtype)


def test_the_transform_is_orthogonal_symmetric_and_stays_in_its_block() -> None:
    matrix = to_float64(first(rht32.launch(mx.eye(64), SCALE)))
    block = hadamard() * 32**-0.5
    assert np.allclose(matrix, np.kron(np.eye(2), block), atol=1e-7)
    assert np.allclose(matrix @ matrix.T, np.eye(64), atol=1e-6)
    assert np.array_equal(matrix, matrix.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transforming_twice_gives_the_input_back(dtype: mx.Dtype) -> None:
    x = rows(3, 64, dtype)
    twice = first(rht32.launch(first(rht32.launch(x, SCALE)), SCALE))
    assert np.abs(to_float64(twice) - to_float64(x)).max() < 8 * EPSILON[dtype]


def test_signs_are_applied_before_the_transform() -> None:
    x, diagonal = rows(2, 96), mx.random.normal((96,))
    expected = butterfly(to_float64(x) * to_float64(diagonal))
    assert np.allclose(to_float64(first(rht32.launch(x, diagonal))), expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 64, 96, 128, 640, 4128])
def test_the_fused_norm_equals_norm_then_transform(dtype: mx.Dtype, width: int) -> None:
    x, weight = rows(2, width, dtype), rows(1, width, dtype)[0]
    wide = to_float64(x)
    norm = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * to_float64(weight)
    out = to_float64(first(rms_norm_rht.launch(x, weight, eps=1e-5)))
    expected = butterfly(norm)
    assert np.abs(out - expected).max() < TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fused_activation_equals_activation_then_transform(dtype: mx.Dtype) -> None:
    gate, up = rows(3, 160, dtype), rows(3, 160, dtype)
    g = to_float64(gate)
    expected = butterfly(g / (1 + np.exp(-g)) * to_float64(up))
    out = to_float64(first(swiglu_rht.launch(gate, up)))
    assert np.abs(out - expected).max() < TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("bits", BITS)
def test_every_code_is_read_at_every_position(bits: int) -> None:
    width, outputs = 64, 2**bits
    codes = (np.arange(outputs)[:, None] + np.arange(width)) % 2**bits
    stream = (codes[..., None] >> np.arange(bits)) & 1
    packed = np.packbits(stream.reshape(outputs, -1).astype(np.uint8), axis=1, bitorder="little")
    ones = mx.ones((outputs, 1))
    launch = rht_qmv.launch(
        mx.eye(width),
        mx.array(packed.view(np.uint32)),
        ones,
        ones * 0,
        bits=bits,
        group_size=64,
        rotate=False,
    )
    assert np.array_equal(to_numpy(first(launch)), codes.T)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUP_SIZES)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_products_of_every_format_are_exact_to_rounding(
    bits: int, group: int, dtype: mx.Dtype
) -> None:
    width = 512 + 128
    packed, x = quantized(11, width, bits, group), rows(2, width, dtype)
    weight, turned = dequantized(packed, bits, group), butterfly(to_float64(x))
    exact = turned @ weight.T
    bound = np.linalg.norm(turned, axis=1)[:, None] * np.linalg.norm(weight, axis=1)
    for kernel in (rht_qmv, rht_qmm):
        out = to_float64(first(kernel.launch(x, *packed, bits=bits, group_size=group)))
        assert (np.abs(out - exact) <= 2 * EPSILON[dtype] * bound).all(), kernel.name


@pytest.mark.parametrize(("outputs", "width", "count"), [(1, 32, 1), (7, 64, 2), (9, 1152, 3)])
@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_odd_shapes_in_any_order_of_summation(
    outputs: int, width: int, count: int, reduction: int
) -> None:
    packed, x = quantized(outputs, width, 4, 32), rows(count, width)
    launch = rht_qmv.launch(x, *packed, bits=4, group_size=32)
    out = to_float64(first(launch, flags=(f"-DEMU_REDUCTION={reduction}",)))
    turned, weight = butterfly(to_float64(x)), dequantized(packed, 4, 32)
    bound = np.linalg.norm(turned, axis=1)[:, None] * np.linalg.norm(weight, axis=1)
    assert (np.abs(out - turned @ weight.T) <= 4 * EPSILON[mx.float32] * bound).all()


@pytest.mark.parametrize("group", GROUP_SIZES)
@pytest.mark.parametrize("count", [1, 3])
def test_rows_of_one_group(group: int, count: int) -> None:
    packed, x = quantized(1, group, 4, group), rows(count, group)
    exact = butterfly(to_float64(x)) @ dequantized(packed, 4, group).T
    for kernel in (rht_qmv, rht_qmm):
        out = to_float64(first(kernel.launch(x, *packed, bits=4, group_size=group)))
        assert np.allclose(out, exact, rtol=0, atol=1e-6 * np.abs(exact).max() * group**0.5)


def test_views_give_what_their_copies_give() -> None:
    wide = rows(6, 128)
    for view in (wide[1::2, 32:96], wide.T[:64, :].T, mx.broadcast_to(wide[0, :64], (3, 64))):
        copy = mx.array(np.array(view))
        left, right = (first(rht32.launch(x, SCALE)) for x in (view, copy))
        assert np.array_equal(np.array(left), np.array(right))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-42, 0.0])
def test_odd_values_stay_in_their_row(value: float) -> None:
    x = np.array(rows(3, 64))
    x[1, 5] = value
    packed = quantized(5, 64, 4, 64)
    launches = (
        rht_qmv.launch(mx.array(x), *packed, bits=4, group_size=64),
        rht_qmm.launch(mx.array(x), *packed, bits=4, group_size=64),
        rms_norm_rht.launch(mx.array(x), mx.ones((64,)), eps=1e-5),
        swiglu_rht.launch(mx.array(x), rows(3, 64)),
    )
    for launch in launches:
        out = np.array(first(launch))
        assert np.isfinite(out[[0, 2]]).all()
        assert np.isfinite(out[1]).all() == np.isfinite(value)


def test_rows_of_zeros_give_zeros() -> None:
    x = mx.zeros((2, 64))
    assert not np.array(first(rms_norm_rht.launch(x, mx.ones((64,)), eps=1e-5))).any()
    assert not np.array(first(rd_sweep.launch(x))).any()


def test_the_sweep_is_the_error_of_mlx_own_codes() -> None:
    weight = rows(4, 256, mx.bfloat16)
    sums = to_float64(first(rd_sweep.launch(weight))).sum(axis=0)
    wide = to_float64(weight)
    assert sums[0] == pytest.approx((wide**2).sum(), rel=1e-5)
    for column, (mode, bits, group) in enumerate(COLUMNS[1:], 1):
        packed = mx.quantize(weight, group_size=group, bits=bits, mode=mode)
        if mode == "affine":
            values: Array = dequantized(packed, bits, group)
        else:
            options: dict[str, Any] = {"group_size": group, "bits": bits, "mode": mode}
            values = to_float64(mx.dequantize(*packed, **options, dtype=mx.float32))
        error = ((values - wide) ** 2).sum()
        # MLX takes codes against unrounded scales, as we do: sums differ by rounding only.
        assert sums[column] == pytest.approx(error, rel=2e-3), COLUMNS[column]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_sweep_adds_up_the_affine_errors_exactly(dtype: mx.Dtype) -> None:
    weight = rows(3, 256, dtype)
    found = to_float64(first(rd_sweep.launch(weight)))
    for column, (mode, bits, group) in enumerate(COLUMNS[1:], 1):
        if mode == "affine":
            packed = mx.quantize(weight, group_size=group, bits=bits)
            errors = np.square(dequantized(packed, bits, group) - to_float64(weight))
            assert np.allclose(found[:, column], errors.sum(axis=1), rtol=1e-6), COLUMNS[column]


@pytest.mark.parametrize("width", [48, 2304 + 16])
def test_a_width_of_broken_blocks_is_refused(width: int) -> None:
    with pytest.raises(KernelInputError, match="multiple of 32"):
        rht32.launch(mx.zeros((1, width)), mx.ones((width,)))


def test_weights_of_another_shape_are_refused() -> None:
    packed = quantized(8, 64, 4, 64)
    with pytest.raises(KernelInputError, match="expected uint32"):
        rht_qmv.launch(mx.zeros((1, 128)), *packed, bits=4, group_size=64)
    with pytest.raises(KernelInputError, match="7 bits"):
        rht_qmv.launch(mx.zeros((1, 64)), *packed, bits=7, group_size=64)
