"""Products with affine-quantized weights whose input is transformed on the way in."""

from __future__ import annotations

import mlx.core as mx

from bitbudget.metal_kernels.blocks import BLOCK, KernelInputError, butterfly, check_blocks
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.launch import Launch, Source

__all__ = ["BITS", "GROUP_SIZES", "matrix_launch", "rht_qmm", "rht_qmv", "vector_launch"]

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)

_INPUTS = ("x", "w", "scales", "second")
"""`second` are the biases here; in other formats it is what else a group has."""
_VECTOR = Source(
    name="bitbudget_rht_qmv",
    inputs=_INPUTS,
    outputs=("y",),
    body="rht_qmv",
    headers=("butterfly", "affine", "group_affine"),
)
_MATRIX = Source(
    name="bitbudget_rht_qmm",
    inputs=_INPUTS,
    outputs=("y",),
    body="rht_qmm",
    headers=("matrix", "butterfly", "affine", "group_affine"),
)
_ROWS = 4
_SIMD_GROUPS = 2
_TILE = 32
_LEAST_WORDS = 8
_WIDE_LANES = (2, 3, 4, 5)
"""Widths at which a lane takes 16 inputs, as mlx's qmv_fast does; else 8."""


def _check(
    x: mx.array, w: mx.array, scales: mx.array, biases: mx.array, *, bits: int, group_size: int
) -> None:
    check_blocks("x", x)
    if bits not in BITS or group_size not in GROUP_SIZES:
        raise KernelInputError(
            f"found {bits} bits in groups of {group_size}, "
            f"expected bits of {BITS} and groups of {GROUP_SIZES}"
        )
    width = x.shape[-1]
    outputs = w.shape[0]
    packed = (outputs, width * bits // BLOCK)
    if width % group_size or w.dtype != mx.uint32 or w.shape != packed:
        raise KernelInputError(
            f"w: found {w.dtype} {tuple(w.shape)}, expected uint32 {packed} for inputs of width "
            f"{width} in groups of {group_size}"
        )
    groups = (outputs, width // group_size)
    if scales.shape != groups or biases.shape != groups:
        raise KernelInputError(
            f"scales and biases: found {tuple(scales.shape)} and {tuple(biases.shape)}, "
            f"expected {groups}"
        )


def _addressable(w: mx.array) -> mx.array:
    """Return `w` with at least 8 words: MLX passes fewer as `constant`, which has no bytes."""
    missing = _LEAST_WORDS - w.size
    return w if missing <= 0 else mx.pad(w, [(0, 0), (0, -(-missing // w.shape[0]))])


def launch_vector(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array,
    *,
    bits: int,
    group_size: int,
    rotate: bool = True,
) -> Launch:
    """Return (B x) W^T for `x` (..., K) and W (N, K) as mx.quantize packs it.

    `rotate=False` leaves B out: the same product without the transform, for comparison.
    """
    _check(x, w, scales, biases, bits=bits, group_size=group_size)
    return vector_launch(x, w, scales, biases, bits=bits, group_size=group_size, rotate=rotate)


def launch_matrix(
    x: mx.array, w: mx.array, scales: mx.array, biases: mx.array, *, bits: int, group_size: int
) -> Launch:
    """As `launch_vector`, tiled for many rows of `x` (prefill)."""
    _check(x, w, scales, biases, bits=bits, group_size=group_size)
    return matrix_launch(x, w, scales, biases, bits=bits, group_size=group_size, rotate=True)


def vector_launch(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    second: mx.array,
    *,
    bits: int,
    group_size: int,
    rotate: bool,
) -> Launch:
    """Return the launch for few rows of `x`, of arrays that are checked already."""
    width, outputs = x.shape[-1], w.shape[0]
    rows = x.size // width
    blocks = -(-outputs // (_ROWS * _SIMD_GROUPS))
    return Launch(
        source=_VECTOR,
        inputs=(x.reshape(rows, width), _addressable(w), scales, second),
        template=(
            ("T", x.dtype),
            ("BITS", bits),
            ("GROUP", group_size),
            ("VALUES", 16 if bits in _WIDE_LANES else 8),
            ("ROWS", _ROWS),
            ("ROTATE", rotate),
        ),
        grid=(rows * BLOCK, blocks * _SIMD_GROUPS, 1),
        threadgroup=(BLOCK, _SIMD_GROUPS, 1),
        output_shapes=((*x.shape[:-1], outputs),),
        output_dtypes=(x.dtype,),
    )


def matrix_launch(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    second: mx.array,
    *,
    bits: int,
    group_size: int,
    rotate: bool,
) -> Launch:
    """Return the launch for many rows of `x`, of arrays that are checked already."""
    width, outputs = x.shape[-1], w.shape[0]
    rows = x.size // width
    return Launch(
        source=_MATRIX,
        inputs=(x.reshape(rows, width), _addressable(w), scales, second),
        template=(("T", x.dtype), ("BITS", bits), ("GROUP", group_size), ("ROTATE", rotate)),
        grid=(-(-outputs // _TILE) * 128, -(-rows // _TILE), 1),
        threadgroup=(128, 1, 1),
        output_shapes=((*x.shape[:-1], outputs),),
        output_dtypes=(x.dtype,),
    )


def reference(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array,
    *,
    bits: int,
    group_size: int,
    rotate: bool = True,
) -> tuple[mx.array, ...]:
    """As `launch_vector`, in MLX operations that accumulate in float32."""
    _check(x, w, scales, biases, bits=bits, group_size=group_size)
    product = mx.quantized_matmul(
        butterfly(x) if rotate else x.astype(mx.float32),
        w,
        scales.astype(mx.float32),
        biases.astype(mx.float32),
        group_size=group_size,
        bits=bits,
    )
    return (product.astype(x.dtype),)


def product_case(
    dtype: mx.Dtype, bits: int, group: int, *, rows: int, outputs: int, width: int
) -> Case:
    """Return random inputs (rows, width) and a weight (outputs, width) quantized by MLX."""
    keys = mx.random.split(mx.random.key(bits * 1000 + group))
    weight = mx.random.normal((outputs, width), key=keys[0]).astype(dtype)
    x = mx.random.normal((rows, width), key=keys[1]).astype(dtype)
    return Case(
        f"{dtype} {bits} bits, groups of {group}, {rows} x {outputs} x {width}",
        (x, *mx.quantize(weight, group_size=group, bits=bits)),
        {"bits": bits, "group_size": group},
        TOLERANCE[dtype] * (4 if dtype == mx.float32 else 1),
    )


def cases_vector() -> tuple[Case, ...]:
    """Every format once, at widths and heights that divide nothing, and the smallest shapes."""
    dtypes = (mx.float32, mx.bfloat16, mx.float16)
    small = tuple(
        product_case(mx.float32, 4, 32, rows=rows, outputs=outputs, width=width)
        for rows, outputs, width in ((1, 1, 32), (2, 7, 64), (3, 9, 1152))
    )
    return small + tuple(
        product_case(
            dtypes[index % 3], bits, group, rows=1 + index % 2, outputs=5 + index, width=512 + group
        )
        for index, (bits, group) in enumerate((b, g) for b in BITS for g in GROUP_SIZES)
    )


def cases_matrix() -> tuple[Case, ...]:
    """Every width, with tiles that are cut off, and the smallest and a whole tile."""
    dtypes = (mx.float32, mx.bfloat16)
    small = tuple(
        product_case(mx.float32, 2, 32, rows=rows, outputs=outputs, width=width)
        for rows, outputs, width in ((1, 1, 32), (64, 64, 96))
    )
    return small + tuple(
        product_case(
            dtypes[index % 2], bits, GROUP_SIZES[index % 3], rows=33 + index, outputs=37, width=128
        )
        for index, bits in enumerate(BITS)
    )


rht_qmv = Kernel("rht_qmv", launch_vector, reference, cases_vector)
rht_qmm = Kernel("rht_qmm", launch_matrix, reference, cases_matrix)
