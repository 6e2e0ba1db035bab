"""The emulator's independent check: MLX's own kernels give MLX's own results."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.metal_emulator.emulate import to_mlx, to_numpy
from tests.metal_emulator.machine import Array
from tests.metal_emulator.mlx_kernels import MlxKernel

ELEMENTS = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}
QUANTIZED = ("steel/gemm/gemm.h", "quantized_utils.h", "quantized.h")
ROUNDING = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 1.2e-2}


def _int32(*values: int) -> Array:
    return np.array(values if len(values) > 1 else values[0], np.int32)


def _batch(rows: int, width: int) -> list[Array]:
    one = np.array([1], np.int64)
    shape = [_int32(0), _int32(rows, width), np.array([1, 1], np.int64)]
    return [*shape, _int32(0), np.array([1], np.int32), one, one, one]


def _hadamard(x: mx.array, radix: int, read: int) -> Array:
    rows, width = x.shape
    kernel = MlxKernel(
        ("hadamard.h",),
        "hadamard_n",
        f"{ELEMENTS[x.dtype]}, {width}, {radix}, {read}",
        ELEMENTS[x.dtype],
        "METAL_FUNC void hadamard_radix_m(thread float* x) {}",
    )
    contents = to_numpy(x)
    scale = np.array(1 / np.sqrt(width), np.float32)
    threads = width // radix
    (out,) = kernel.run(
        [contents, np.zeros_like(contents), scale], [1], (threads, rows, 1), (threads, 1, 1)
    )
    return out


@pytest.mark.parametrize("width", [32, 64, 1024])
def test_hadamard_is_bit_equal_in_float32(emulator: None, width: int) -> None:
    mx.random.seed(width)
    x = mx.random.normal((5, width))
    out = _hadamard(x, min(width, 16), 4)
    assert np.array_equal(out, np.array(mx.hadamard_transform(x)))


@pytest.mark.parametrize(
    ("bits", "group_size"),
    [(2, 64), (3, 64), (4, 32), (4, 64), (4, 128), (6, 64), (8, 64)],
)
def test_affine_quantize_is_bit_equal_in_float32(
    emulator: None, bits: int, group_size: int
) -> None:
    mx.random.seed(bits)
    weight = mx.random.normal((16, 512))
    codes, scales, biases = mx.quantize(weight, group_size=group_size, bits=bits)
    kernel = MlxKernel(QUANTIZED, "affine_quantize", f"float, {group_size}, {bits}", "float")
    empty = [np.zeros_like(to_numpy(array)) for array in (codes, scales, biases)]
    packed = [to_numpy(weight), empty[0].view(np.uint8), *empty[1:]]
    threads = weight.size // (group_size // 32)
    out = kernel.run(packed, [1, 2, 3], (threads, 1, 1), (min(threads, 1024), 1, 1))
    assert np.array_equal(out[0].view(np.uint32), to_numpy(codes))
    assert np.array_equal(out[1], to_numpy(scales))
    assert np.array_equal(out[2], to_numpy(biases))


def _reference(
    x: mx.array, codes: mx.array, scales: mx.array, biases: mx.array, bits: int, group: int
) -> Array:
    wide = [array.astype(mx.float32) for array in (scales, biases)]
    weight = mx.dequantize(codes, *wide, group_size=group, bits=bits)
    exact: Array = (
        to_numpy(x.astype(mx.float32)).astype(np.float64) @ np.array(weight, np.float64).T
    )
    return exact


def _relative(out: mx.array, exact: Array) -> float:
    difference = np.abs(np.array(out.astype(mx.float32), np.float64) - exact)
    return float(difference.max() / np.abs(exact).max())


@pytest.mark.parametrize(
    ("dtype", "bits", "group", "rows", "outputs", "width"),
    [
        (mx.float32, 4, 64, 2, 64, 1024),
        (mx.float16, 4, 32, 2, 64, 1024),
        (mx.bfloat16, 8, 128, 1, 16, 512),
        (mx.float32, 3, 64, 1, 16, 1024),
        (mx.float32, 6, 64, 1, 16, 1024),
    ],
)
def test_fast_matrix_vector_product(
    emulator: None, dtype: mx.Dtype, bits: int, group: int, rows: int, outputs: int, width: int
) -> None:
    mx.random.seed(1)
    codes, *affine = mx.quantize(
        mx.random.normal((outputs, width)).astype(dtype), group_size=group, bits=bits
    )
    x = mx.random.normal((rows, width)).astype(dtype)
    element = ELEMENTS[dtype]
    kernel = MlxKernel(QUANTIZED, "affine_qmv_fast", f"{element}, {group}, {bits}, false", element)
    empty = np.zeros((rows, outputs), to_numpy(x).dtype)
    arrays = [to_numpy(a) for a in (codes, *affine, x)]
    arrays += [empty, _int32(width), _int32(outputs), *_batch(rows, width)]
    (out,) = kernel.run(arrays, [4], (rows * 32, outputs // 8 * 2, 1), (32, 2, 1))
    exact = _reference(x, codes, *affine, bits, group)
    assert _relative(to_mlx(out, dtype), exact) < ROUNDING[dtype]


@pytest.mark.parametrize(("outputs", "width"), [(37, 320), (9, 1152)])
def test_general_matrix_vector_product(emulator: None, outputs: int, width: int) -> None:
    mx.random.seed(2)
    codes, *affine = mx.quantize(mx.random.normal((outputs, width)), group_size=32, bits=4)
    x = mx.random.normal((3, width))
    kernel = MlxKernel(QUANTIZED, "affine_qmv", "float, 32, 4, false", "float")
    arrays = [to_numpy(a) for a in (codes, *affine, x)]
    arrays += [
        np.zeros((3, outputs), np.float32),
        _int32(width),
        _int32(outputs),
        *_batch(3, width),
    ]
    (out,) = kernel.run(arrays, [4], (96, (outputs + 7) // 8 * 2, 1), (32, 2, 1))
    assert _relative(mx.array(out), _reference(x, codes, *affine, 4, 32)) < ROUNDING[mx.float32]


@pytest.mark.parametrize(("dtype", "rows", "outputs"), [(mx.float32, 33, 96), (mx.bfloat16, 7, 70)])
def test_matrix_product_with_simdgroup_matrices(
    emulator: None, dtype: mx.Dtype, rows: int, outputs: int
) -> None:
    mx.random.seed(3)
    width, element = 256, ELEMENTS[dtype]
    codes, *affine = mx.quantize(
        mx.random.normal((outputs, width)).astype(dtype), group_size=64, bits=4
    )
    x = mx.random.normal((rows, width)).astype(dtype)
    aligned = "true" if outputs % 32 == 0 else "false"
    kernel = MlxKernel(QUANTIZED, "affine_qmm_t", f"{element}, 64, 4, {aligned}, false", element)
    arrays = [to_numpy(a) for a in (codes, *affine, x)]
    arrays += [np.zeros((rows, outputs), arrays[3].dtype), *map(_int32, (width, outputs, rows))]
    arrays += _batch(rows, width)
    grid = ((outputs + 31) // 32 * 32, (rows + 31) // 32 * 2, 2)
    (out,) = kernel.run(arrays, [4], grid, (32, 2, 2))
    assert _relative(to_mlx(out, dtype), _reference(x, codes, *affine, 4, 64)) < ROUNDING[dtype]
