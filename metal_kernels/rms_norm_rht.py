"""RMS norm, with or without the residual addition before it, and the transform behind it."""

from __future__ import annotations

import mlx.core as mx

from bitbudget.metal_kernels.blocks import KernelInputError, butterfly, check_blocks
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.launch import Launch, Source

__all__ = ["residual_rms_norm_rht", "rms_norm_rht"]

_HEADERS = ("butterfly", "rms_norm_row")
_PLAIN = Source(
    name="bitbudget_rms_norm_rht",
    inputs=("x", "weight", "eps"),
    outputs=("out",),
    body="rms_norm_rht",
    headers=_HEADERS,
)
_RESIDUAL = Source(
    name="bitbudget_residual_rms_norm_rht",
    inputs=("x", "residual", "weight", "eps"),
    outputs=("sum", "out"),
    body="residual_rms_norm_rht",
    headers=_HEADERS,
)
_VALUES = 4
_MOST_THREADS = 1024
_MOST_CHUNKS = 8
_SIMD = 32


def _check(x: mx.array, weight: mx.array) -> None:
    check_blocks("x", x)
    widest = _VALUES * _MOST_THREADS * _MOST_CHUNKS
    if x.shape[-1] > widest:
        raise KernelInputError(f"x: found width {x.shape[-1]}, expected at most {widest}")
    if weight.shape != (x.shape[-1],) or weight.dtype != x.dtype:
        raise KernelInputError(
            f"weight: found {weight.dtype} {tuple(weight.shape)}, "
            f"expected {x.dtype} ({x.shape[-1]},)"
        )


def _launch(source: Source, rows: tuple[mx.array, ...], weight: mx.array, eps: float) -> Launch:
    x = rows[0]
    width = x.shape[-1]
    count = x.size // width
    lanes = -(-width // _VALUES)
    threads = min(_MOST_THREADS, -(-lanes // _SIMD) * _SIMD)
    flat = tuple(array.reshape(count, width) for array in rows)
    return Launch(
        source=source,
        inputs=(*flat, weight, mx.array(eps, dtype=mx.float32)),
        template=(("T", x.dtype), ("CHUNKS", -(-lanes // threads))),
        grid=(count * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=(x.shape,) * len(source.outputs),
        output_dtypes=(x.dtype,) * len(source.outputs),
    )


def launch(x: mx.array, weight: mx.array, *, eps: float) -> Launch:
    """Return B (weight * x / sqrt(mean(x^2) + eps)); `x` (..., K), `weight` (K,), one dtype."""
    _check(x, weight)
    return _launch(_PLAIN, (x,), weight, eps)


def reference(x: mx.array, weight: mx.array, *, eps: float) -> tuple[mx.array, ...]:
    """As `launch`, in MLX operations."""
    _check(x, weight)
    wide = x.astype(mx.float32)
    scale = mx.rsqrt(mx.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (butterfly(wide * scale * weight.astype(mx.float32)).astype(x.dtype),)


def launch_residual(x: mx.array, residual: mx.array, weight: mx.array, *, eps: float) -> Launch:
    """Return h = x + residual, and the transformed norm of h; all of one dtype."""
    _check(x, weight)
    _check_residual(x, residual)
    return _launch(_RESIDUAL, (x, residual), weight, eps)


def reference_residual(
    x: mx.array, residual: mx.array, weight: mx.array, *, eps: float
) -> tuple[mx.array, ...]:
    """As `launch_residual`, in MLX operations."""
    _check_residual(x, residual)
    added = x + residual
    return (added, *reference(added, weight, eps=eps))


def _check_residual(x: mx.array, residual: mx.array) -> None:
    if residual.shape != x.shape or residual.dtype != x.dtype:
        raise KernelInputError(
            f"residual: found {residual.dtype} {tuple(residual.shape)}, "
            f"expected {x.dtype} {tuple(x.shape)}"
        )


_SHAPES = (
    (mx.float32, (3, 160)),
    (mx.bfloat16, (2, 1, 4128)),
    (mx.float16, (2, 64)),
    (mx.bfloat16, (1, 1024)),
)


def _inputs() -> list[tuple[str, mx.Dtype, mx.array, mx.array, mx.array]]:
    made = []
    for seed, (dtype, shape) in enumerate(_SHAPES):
        keys = mx.random.split(mx.random.key(seed), 3)
        x, residual = (mx.random.normal(shape, key=key).astype(dtype) for key in keys[:2])
        weight = mx.random.normal(shape[-1:], key=keys[2]).astype(dtype)
        made.append((f"{dtype} {shape}", dtype, x, residual, weight))
    return made


def cases() -> tuple[Case, ...]:
    """Widths below, at and above one pass of a threadgroup."""
    return tuple(
        Case(name, (x, weight), {"eps": 1e-5}, TOLERANCE[dtype])
        for name, dtype, x, _, weight in _inputs()
    )


def cases_residual() -> tuple[Case, ...]:
    """As `cases`, with the addition."""
    return tuple(
        Case(name, (x, residual, weight), {"eps": 1e-5}, TOLERANCE[dtype])
        for name, dtype, x, residual, weight in _inputs()
    )


rms_norm_rht = Kernel("rms_norm_rht", launch, reference, cases)
residual_rms_norm_rht = Kernel(
    "residual_rms_norm_rht", launch_residual, reference_residual, cases_residual
)
