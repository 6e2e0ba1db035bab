"""The squared error of every storage format of a weight, from one read of it."""

from __future__ import annotations

import mlx.core as mx

from bitbudget.metal_kernels.blocks import BLOCK, check_blocks
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.launch import Launch, Source

__all__ = ["COLUMNS", "rd_sweep", "widest_group"]

_BITS = (2, 3, 4, 5, 6, 8)
_GROUPS = (32, 64, 128)
_MICROSCALING = (("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32))
COLUMNS: tuple[tuple[str, int, int], ...] = (
    ("energy", 0, 0),
    *(("affine", bits, group) for bits in _BITS for group in _GROUPS),
    *_MICROSCALING,
)
"""(mode, bits, group size) of each output column; the first is the sum of squares."""

_SOURCE = Source(
    name="bitbudget_rd_sweep",
    inputs=("w",),
    outputs=("errors",),
    body="rd_sweep",
    headers=("rate_distortion",),
)
_TINY = 1e-7


def widest_group(width: int) -> int:
    """Return the largest group size that divides `width`, a multiple of 32."""
    return max(group for group in _GROUPS if width % group == 0)


def launch(w: mx.array) -> Launch:
    """Return the squared errors (N, 22) of each row of `w` (N, K), float32.

    Affine codes are min-max codes as `mx.quantize` takes them on CPUs (ties to even), the error is
    that of the stored scale and bias. Columns of groups that do not divide K are 0.
    """
    check_blocks("w", w)
    rows = w.reshape(-1, w.shape[-1])
    return Launch(
        source=_SOURCE,
        inputs=(rows,),
        template=(("T", w.dtype), ("WIDEST_GROUP", widest_group(w.shape[-1]))),
        grid=(BLOCK, rows.shape[0], 1),
        threadgroup=(BLOCK, 1, 1),
        output_shapes=((rows.shape[0], len(COLUMNS)),),
        output_dtypes=(mx.float32,),
    )


def _affine(w: mx.array, bits: int, group: int) -> mx.array:
    levels = 2**bits - 1
    values = w.astype(mx.float32).reshape(w.shape[0], -1, group)
    least, greatest = values.min(-1, keepdims=True), values.max(-1, keepdims=True)
    negative = mx.abs(least) > mx.abs(greatest)
    edge = mx.where(negative, least, greatest)
    scale = mx.maximum((greatest - least) / levels, _TINY)
    scale = mx.where(negative, scale, -scale)
    steps = mx.round(edge / scale)
    scale = mx.where(steps == 0, scale, edge / mx.where(steps == 0, 1, steps))
    bias = mx.where(steps == 0, 0.0, edge)
    codes = mx.clip(mx.round((values - bias) / scale), 0, levels)
    stored_scale = scale.astype(w.dtype).astype(mx.float32)
    stored_bias = bias.astype(w.dtype).astype(mx.float32)
    return mx.square(stored_scale * codes + stored_bias - values).sum((1, 2))


def _microscaling(w: mx.array, mode: str, bits: int, group: int) -> mx.array:
    codes = mx.quantize(w, group_size=group, bits=bits, mode=mode)
    values = mx.dequantize(*codes, group_size=group, bits=bits, mode=mode, dtype=mx.float32)
    return mx.square(values - w.astype(mx.float32)).sum(-1)


def reference(w: mx.array) -> tuple[mx.array, ...]:
    """As `launch`, in MLX operations: one pass over the weights for each format."""
    check_blocks("w", w)
    rows = w.reshape(-1, w.shape[-1])
    columns = [mx.square(rows.astype(mx.float32)).sum(-1)]
    for mode, bits, group in COLUMNS[1:]:
        if rows.shape[-1] % group:
            columns.append(mx.zeros((rows.shape[0],)))
        elif mode == "affine":
            columns.append(_affine(rows, bits, group))
        else:
            columns.append(_microscaling(rows, mode, bits, group))
    return (mx.stack(columns, axis=-1),)


def cases() -> tuple[Case, ...]:
    """Widths at which one, two and all group sizes are legal."""
    made = []
    for seed, (dtype, shape) in enumerate(
        ((mx.float32, (3, 96)), (mx.bfloat16, (2, 192)), (mx.float16, (5, 384)))
    ):
        w = mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)
        made.append(Case(f"{dtype} {shape}", (w,), tolerance=TOLERANCE[mx.bfloat16]))
    return tuple(made)


rd_sweep = Kernel("rd_sweep", launch, reference, cases)
