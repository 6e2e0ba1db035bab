"""A randomized Hadamard transform of blocks of 32: `B (diagonal * x)`."""

from __future__ import annotations

import mlx.core as mx

from bitbudget.metal_kernels.blocks import KernelInputError, butterfly, check_blocks
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.launch import Launch, Source

__all__ = ["rht32"]

_SOURCE = Source(
    name="bitbudget_rht32",
    inputs=("inp", "diagonal"),
    outputs=("out",),
    body="rht32",
    headers=("butterfly",),
)
_THREADS = 256
_VALUES = 4


def _check(x: mx.array, diagonal: mx.array) -> None:
    check_blocks("x", x)
    if diagonal.shape != (x.shape[-1],) or diagonal.dtype != mx.float32:
        raise KernelInputError(
            f"diagonal: found {diagonal.dtype} {tuple(diagonal.shape)}, "
            f"expected float32 ({x.shape[-1]},)"
        )


def launch(x: mx.array, diagonal: mx.array) -> Launch:
    """Transform the last axis of `x` (..., K) after scaling it by `diagonal` (K,) in float32."""
    _check(x, diagonal)
    return Launch(
        source=_SOURCE,
        inputs=(x, diagonal),
        template=(("T", x.dtype),),
        grid=(x.size // _VALUES, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=(x.shape,),
        output_dtypes=(x.dtype,),
    )


def reference(x: mx.array, diagonal: mx.array) -> tuple[mx.array, ...]:
    """As `launch`, in MLX operations."""
    _check(x, diagonal)
    return (butterfly(x.astype(mx.float32) * diagonal).astype(x.dtype),)


def cases() -> tuple[Case, ...]:
    """Shapes of every kind the kernel treats differently."""
    made = []
    for seed, (dtype, shape) in enumerate(
        ((mx.float32, (3, 160)), (mx.bfloat16, (2, 3, 64)), (mx.float16, (1, 32)))
    ):
        key = mx.random.key(seed)
        x = mx.random.normal(shape, key=key).astype(dtype)
        diagonal = mx.random.normal((shape[-1],), key=key)
        made.append(Case(f"{dtype} {shape}", (x, diagonal), tolerance=TOLERANCE[dtype]))
    return tuple(made)


rht32 = Kernel("rht32", launch, reference, cases)
