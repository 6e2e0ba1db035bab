"""Products with affine-quantized weights whose input is transformed on the way in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx

from bitbudget.metal_kernels.blocks import BLOCK, KernelInputError, butterfly, check_blocks
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.products import Order, Product

__all__ = ["BITS", "GROUP_SIZES", "product", "product_case", "rht_qmm", "rht_qmv"]

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


def product(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array,
    *,
    bits: int,
    group_size: int,
    rotate: bool = True,
    order: Order = Order.LINEAR,
) -> Product:
    """Return (B x) W^T, to be launched, for `x` (..., K) and W (N, K) as mx.quantize packs it.

    `rotate=False` leaves B out: the same product without the transform, for comparison.
    """
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
    return Product(x, w, scales, biases, bits, group_size, "affine", rotate, order)


def reference(*arrays: mx.array, **options: Any) -> tuple[mx.array, ...]:
    """Return `product` in MLX operations that accumulate in float32."""
    asked = product(*arrays, **options)
    result = mx.quantized_matmul(
        butterfly(asked.x) if asked.rotate else asked.x.astype(mx.float32),
        asked.w,
        asked.scales.astype(mx.float32),
        asked.second.astype(mx.float32),
        group_size=asked.group_size,
        bits=asked.bits,
    )
    return (result.astype(asked.x.dtype),)


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
    """Every width, with tiles that are cut off, the smallest, a whole tile and Morton order."""
    dtypes = (mx.float32, mx.bfloat16)
    small = tuple(
        product_case(mx.float32, 2, 32, rows=rows, outputs=outputs, width=width)
        for rows, outputs, width in ((1, 1, 32), (64, 64, 96))
    )
    far = product_case(mx.float32, 4, 32, rows=70, outputs=130, width=32)
    morton = replace(far, options={**far.options, "order": Order.MORTON})
    every = (
        product_case(
            dtypes[index % 2], bits, GROUP_SIZES[index % 3], rows=33 + index, outputs=37, width=128
        )
        for index, bits in enumerate(BITS)
    )
    return (*small, morton, *every)


rht_qmv = Kernel(
    "rht_qmv", lambda *arrays, **how: product(*arrays, **how).vector(), reference, cases_vector
)
rht_qmm = Kernel(
    "rht_qmm", lambda *arrays, **how: product(*arrays, **how).matrix(), reference, cases_matrix
)
