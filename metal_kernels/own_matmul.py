"""Products with weights in our own number formats, the input transformed on the way in or not.

The kernels are those for affine weights with another decoder of group parameters compiled in.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx

from bitbudget.metal_kernels.blocks import BLOCK, KernelInputError, butterfly, check_blocks
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.launch import Launch
from bitbudget.metal_kernels.rht_matmul import matrix_launch, vector_launch

__all__ = ["LAYOUTS", "SPAN", "own_case", "own_qmm", "own_qmv"]

LAYOUTS = {
    "two": ((3, 4, 5), (16, 32)),
    "zero": ((4,), (32, 64, 128)),
    "sym": ((8,), (32, 64, 128)),
}
"""Bits and group sizes of each."""
SPAN = 256
"""Columns that share D and M of the layout `two`."""
_MIDDLE = 128


def _check(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    second: mx.array,
    *,
    bits: int,
    group: int,
    layout: str,
) -> None:
    check_blocks("x", x)
    widths, sizes = LAYOUTS.get(layout, ((), ()))
    if bits not in widths or group not in sizes:
        raise KernelInputError(f"found {layout} of {bits} bits in groups of {group}: {LAYOUTS}")
    width, outputs = x.shape[-1], w.shape[0]
    groups = width // group
    expected = {
        "two": (outputs, -(-width // SPAN), 2),
        "zero": (outputs, -(-groups // 2)),
        "sym": (outputs, groups),
    }[layout]
    packed = (outputs, width * bits // BLOCK)
    if width % max(group, BLOCK) or w.dtype != mx.uint32 or w.shape != packed:
        raise KernelInputError(f"w: found {w.dtype} {w.shape}, expected uint32 {packed}")
    if scales.shape != (outputs, groups) or second.shape != expected:
        raise KernelInputError(
            f"parameters: found {scales.shape} and {second.shape}, expected {(outputs, groups)}"
            f" and {expected}"
        )


def launch_vector(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    second: mx.array,
    *,
    bits: int,
    group_size: int,
    layout: str,
    rotate: bool = False,
) -> Launch:
    """Return x W^T, or with `rotate` (B x) W^T, for few rows of `x` (..., K) and W (N, K).

    `second` is `spans` of `two`, `zero_points` of `zero`, and the scales again of `sym`.
    """
    _check(x, w, scales, second, bits=bits, group=group_size, layout=layout)
    arrays = (x, w, scales, second)
    return _decoding(
        vector_launch(*arrays, bits=bits, group_size=group_size, rotate=rotate), layout
    )


def launch_matrix(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    second: mx.array,
    *,
    bits: int,
    group_size: int,
    layout: str,
    rotate: bool = False,
) -> Launch:
    """As `launch_vector`, tiled for many rows of `x` (prefill)."""
    _check(x, w, scales, second, bits=bits, group=group_size, layout=layout)
    arrays = (x, w, scales, second)
    return _decoding(
        matrix_launch(*arrays, bits=bits, group_size=group_size, rotate=rotate), layout
    )


def _decoding(launch: Launch, layout: str) -> Launch:
    """Return the launch with the decoder of another layout in the place of the affine one."""
    source = launch.source
    headers = tuple(f"group_{layout}" if n == "group_affine" else n for n in source.headers)
    return replace(launch, source=replace(source, name=f"{source.name}_{layout}", headers=headers))


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


def reference(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    second: mx.array,
    *,
    bits: int,
    group_size: int,
    layout: str,
    rotate: bool = False,
) -> tuple[mx.array, ...]:
    """As `launch_vector`, in MLX operations that accumulate in float32."""
    _check(x, w, scales, second, bits=bits, group=group_size, layout=layout)
    wide = butterfly(x) if rotate else x.astype(mx.float32)
    ones = mx.ones((w.shape[0], x.shape[-1] // BLOCK), mx.float32)
    codes = mx.dequantize(w, ones, mx.zeros_like(ones), group_size=BLOCK, bits=bits)
    scale, bias = _parameters(scales, second, group_size, layout)
    grouped = mx.unflatten(codes, -1, (-1, group_size))
    weight = (scale[..., None] * grouped + bias[..., None]).flatten(-2)
    return ((wide @ weight.T).astype(x.dtype),)


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
    """Every layout, with tiles that are cut off."""
    return tuple(
        own_case(name, dtype, bits[-1], sizes[0], rows=33, outputs=37, width=352)
        for name, (bits, sizes) in LAYOUTS.items()
        for dtype in (mx.float32, mx.bfloat16)
    )


own_qmv = Kernel("own_qmv", launch_vector, reference, cases_vector)
own_qmm = Kernel("own_qmm", launch_matrix, reference, cases_matrix)
