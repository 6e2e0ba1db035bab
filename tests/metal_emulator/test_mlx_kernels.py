"""The emulator's independent check: MLX's own kernels give MLX's own results."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from tests.metal_emulator.emulate import to_mlx, to_numpy
from tests.metal_emulator.exact import dequantized, to_float64
from tests.metal_emulator.machine import Array
from tests.metal_emulator.mlx_kernels import MlxKernel

pytestmark = pytest.mark.usefixtures("emulator")

ELEMENTS = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}
QUANTIZED = ("steel/gemm/gemm.h", "quantized_utils.h", "quantized.h")
ROUNDING = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 1.2e-2}


def _int32(*values: int) -> Array:
    return np.array(values if len(values) > 1 else values[0], np.int32)


@dataclass(frozen=True)
class _Problem:
    """A product x W^T with W quantized."""

    dtype: mx.Dtype
    bits: int
    group: int
    rows: int
    outputs: int
    width: int = 1024

    def arrays(self) -> tuple[mx.array, list[mx.array]]:
        mx.random.seed(self.bits)
        weight = mx.random.normal((self.outputs, self.width)).astype(self.dtype)
        x = mx.random.normal((self.rows, self.width)).astype(self.dtype)
        return x, list(mx.quantize(weight, group_size=self.group, bits=self.bits))

    def error(
        self,
        kernel: str,
        options: str,
        extents: list[int],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
    ) -> float:
        x, packed = self.arrays()
        element = ELEMENTS[self.dtype]
        template = f"{element}, {self.group}, {self.bits}, {options}"
        buffers = [to_numpy(array) for array in (*packed, x)]
        buffers += [np.zeros((self.rows, self.outputs), buffers[3].dtype), *map(_int32, extents)]
        buffers += _batch(self.rows, self.width)
        (out,) = MlxKernel(QUANTIZED, kernel, template, element).run(
            buffers, [4], grid, threadgroup
        )
        exact = to_float64(x) @ dequantized(packed, self.bits, self.group).T
        difference = np.abs(to_float64(to_mlx(out, self.dtype)) - exact)
        return float(difference.max() / np.abs(exact).max())


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
def test_hadamard_is_bit_equal_in_float32(width: int) -> None:
    mx.random.seed(width)
    x = mx.random.normal((5, width))
    out = _hadamard(x, min(width, 16), 4)
    assert np.array_equal(out, np.array(mx.hadamard_transform(x)))


@pytest.mark.parametrize(
    ("bits", "group_size"),
    [(2, 64), (3, 64), (4, 32), (4, 64), (4, 128), (6, 64), (8, 64)],
)
def test_affine_quantize_is_bit_equal_in_float32(bits: int, group_size: int) -> None:
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


@pytest.mark.parametrize(
    "problem",
    [
        _Problem(mx.float32, 4, 64, 2, 64),
        _Problem(mx.float16, 4, 32, 2, 64),
        _Problem(mx.bfloat16, 8, 128, 1, 16, 512),
        _Problem(mx.float32, 3, 64, 1, 16),
        _Problem(mx.float32, 6, 64, 1, 16),
    ],
    ids=str,
)
def test_fast_matrix_vector_product(problem: _Problem) -> None:
    grid = (problem.rows * 32, problem.outputs // 8 * 2, 1)
    extents = [problem.width, problem.outputs]
    error = problem.error("affine_qmv_fast", "false", extents, grid, (32, 2, 1))
    assert error < ROUNDING[problem.dtype]


@pytest.mark.parametrize(("outputs", "width"), [(37, 320), (9, 1152)])
def test_general_matrix_vector_product(outputs: int, width: int) -> None:
    problem = _Problem(mx.float32, 4, 32, 3, outputs, width)
    grid = (96, (outputs + 7) // 8 * 2, 1)
    error = problem.error("affine_qmv", "false", [width, outputs], grid, (32, 2, 1))
    assert error < ROUNDING[mx.float32]


@pytest.mark.parametrize(("dtype", "rows", "outputs"), [(mx.float32, 33, 96), (mx.bfloat16, 7, 70)])
def test_matrix_product_with_simdgroup_matrices(dtype: mx.Dtype, rows: int, outputs: int) -> None:
    problem = _Problem(dtype, 4, 64, rows, outputs, 256)
    options = "true, false" if outputs % 32 == 0 else "false, false"
    grid = ((outputs + 31) // 32 * 32, (rows + 31) // 32 * 2, 2)
    error = problem.error("affine_qmm_t", options, [256, outputs, rows], grid, (32, 2, 2))
    assert error < ROUNDING[dtype]
