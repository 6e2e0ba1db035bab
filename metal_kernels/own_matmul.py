"""Products with weights in our own number formats, the input transformed on the way in or not.

The kernels are those for affine weights with another decoder of group parameters compiled in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx

from bitbudget.metal_kernels.blocks import BLOCK, KernelInputError, butterfly, check_blocks
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.products import Order, Product

__all__ = ["LAYOUTS", "SPAN", "dequantized", "own_case", "own_qmm", "own_qmv", "product"]

LAYOUTS = {
    "two": ((2, 3, 4, 5), (16, 32)),
    "zero": ((4,), (32, 64, 128)),
    "sym": ((8,), (32, 64, 128)),
}
"""Bits and group sizes of each."""
SPAN = 256
"""Columns that share D and M of the layout `two`."""
_MIDDLE = 128


def product(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    second: mx.array,
    *,
    bits: int,
    group_size: int,
    layout: str,
    rotate: bool = False,
    order: Order = Order.LINEAR,
) -> Product:
    """Return x W^T, or with `rotate` (B x) W^T, to be launched, for `x` (..., K) and W (N, K).

    `second` is `spans` of `two`, `zero_points` of `zero`, and the scales again of `sym`.
    """
    check_blocks("x", x)
    widths, sizes = LAYOUTS.get(layout, ((), ()))
    if bits not in widths or group_size not in sizes:
        raise KernelInputError(
            f"found {layout} of {bits} bits in groups of {group_size}: {LAYOUTS}"
        )
    width, outputs = x.shape[-1], w.shape[0]
    groups = width // group_size
    expected = {
        "two": (outputs, -(-width // SPAN), 2),
        "zero": (outputs, -(-groups // 2)),
        "sym": (outputs, groups),
    }[layout]
    packed = (outputs, width * bits // BLOCK)
    if width % max(group_size, BLOCK) or w.dtype != mx.uint32 or w.shape != packed:
        raise KernelInputError(f"w: found {w.dtype} {w.shape}, expected uint32 {packed}")
    if scales.shape != (outputs, groups) or second.shape != expected:
        raise KernelInputError(
            f"parameters: found {scales.shape} and {second.shape}, expected {(outputs, groups)}"
            f" and {expected}"
        )
    return Product(x, w, scales, second, bits, group_size, layout, rotate, order)


def _parameters(
    scales: mx.array, second: mx.array, group_size: int, layout: str
) -> tuple[mx.array, mx.array]:
    if layout == "two":
        number = mx.arange(scales.shape[-1]) * group_size // SPAN
        spans = second.astype(mx.float32)[..., number, :]
        return spans[..., 0] * (scales & 15), -(spans[..., 1] * (scales >> 4))
    wide = scales.astype(mx.float32)
    if layout == "sym":
        return wide, -(wide * _MIDDLE)
    zeros = mx.stack([second & 15, second >> 4], axis=-1).flatten(-2)
    return wide, -(wide * zeros[..., : scales.shape[-1]])


def dequantized(asked: Product) -> mx.array:
    """Return the float32 weight of a product, in MLX operations."""
    ones = mx.ones((asked.w.shape[0], asked.x.shape[-1] // BLOCK), mx.float32)
    codes = mx.dequantize(asked.w, ones, mx.zeros_like(ones), group_size=BLOCK, bits=asked.bits)
    scale, bias = _parameters(asked.scales, asked.second, asked.group_size, asked.layout)
    grouped = mx.unflatten(codes, -1, (-1, asked.group_size))
    return (scale[..., None] * grouped + bias[..., None]).flatten(-2)


def reference(*arrays: mx.array, **options: Any) -> tuple[mx.array, ...]:
    """Return `product` in MLX operations that accumulate in float32."""
    asked = product(*arrays, **options)
    wide = butterfly(asked.x) if asked.rotate else asked.x.astype(mx.float32)
    return ((wide @ dequantized(asked).T).astype(asked.x.dtype),)


def own_case(
    layout: str, dtype: mx.Dtype, bits: int, group: int, *, rows: int, outputs: int, width: int
) -> Case:
    """Return random inputs (rows, width) and random arrays of a weight (outputs, width)."""
    keys = mx.random.split(mx.random.key(bits * 1000 + group), 4)
    words = mx.random.randint(0, 2**16, (outputs, width * bits // BLOCK, 2), key=keys[0])
    w = (words[..., 0] << 16 | words[..., 1]).astype(mx.uint32)
    groups = width // group
    small = mx.random.randint(0, 256, (outputs, groups), key=keys[1]).astype(mx.uint8)
    units = mx.random.uniform(0.5, 1.0, (outputs, -(-width // SPAN), 2), key=keys[2])
    scales = mx.random.uniform(0.5, 1.0, (outputs, groups), key=keys[2]).astype(mx.bfloat16)
    pairs = mx.random.randint(0, 256, (outputs, -(-groups // 2)), key=keys[1]).astype(mx.uint8)
    arrays = {
        "two": (small, (units / 64).astype(mx.bfloat16)),
        "zero": (scales, pairs),
        "sym": (scales, scales),
    }[layout]
    x = mx.random.normal((rows, width), key=keys[3]).astype(dtype)
    return Case(
        f"{layout} {dtype} {bits} bits, groups of {group}, {rows} x {outputs} x {width}",
        (x, w, *arrays),
        {"bits": bits, "group_size": group, "layout": layout, "rotate": width % 96 > 0},
        TOLERANCE[dtype] * (8 if dtype == mx.float32 else 1),
    )


def cases_vector() -> tuple[Case, ...]:
    """Every format once, at widths and heights that divide nothing, and the smallest shapes."""
    dtypes = (mx.float32, mx.bfloat16, mx.float16)
    every = [(name, b, g) for name, (bits, sizes) in LAYOUTS.items() for b in bits for g in sizes]
    small = tuple(
        own_case("two", mx.float32, 4, 16, rows=rows, outputs=outputs, width=width)
        for rows, outputs, width in ((1, 1, 32), (2, 7, 288))
    )
    return small + tuple(
        own_case(name, dtypes[i % 3], b, g, rows=1 + i % 2, outputs=5 + i, width=512 + 128)
        for i, (name, b, g) in enumerate(every)
    )


def cases_matrix() -> tuple[Case, ...]:
    """Every layout, with tiles that are cut off, and Morton order."""
    far = own_case("two", mx.float32, 4, 16, rows=70, outputs=130, width=32)
    morton = replace(far, options={**far.options, "order": Order.MORTON})
    every = (
        own_case(name, dtype, bits[-1], sizes[0], rows=33, outputs=37, width=352)
        for name, (bits, sizes) in LAYOUTS.items()
        for dtype in (mx.float32, mx.bfloat16)
    )
    return (morton, *every)


own_qmv = Kernel(
    "own_qmv", lambda *arrays, **how: product(*arrays, **how).vector(), reference, cases_vector
)
own_qmm = Kernel(
    "own_qmm", lambda *arrays, **how: product(*arrays, **how).matrix(), reference, cases_matrix
)
