"""The gated activation of a feed-forward block with the transform behind it."""

from __future__ import annotations

import mlx.core as mx

from bitbudget.metal_kernels.blocks import KernelInputError, butterfly, check_blocks
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.launch import Launch, Source

__all__ = ["ACTIVATIONS", "swiglu_rht"]

ACTIVATIONS = ("silu", "gelu_tanh")

_SOURCE = Source(
    name="bitbudget_swiglu_rht",
    inputs=("gate", "up"),
    outputs=("out",),
    body="swiglu_rht",
    headers=("butterfly",),
)
_THREADS = 256
_VALUES = 4


def _check(gate: mx.array, up: mx.array, activation: str) -> None:
    check_blocks("gate", gate)
    if up.shape != gate.shape or up.dtype != gate.dtype:
        raise KernelInputError(
            f"up: found {up.dtype} {tuple(up.shape)}, expected {gate.dtype} {tuple(gate.shape)}"
        )
    if activation not in ACTIVATIONS:
        raise KernelInputError(f"activation: found '{activation}', expected one of {ACTIVATIONS}")


def launch(gate: mx.array, up: mx.array, *, activation: str = "silu") -> Launch:
    """Return B (activation(gate) * up); `gate` and `up` (..., K) of one dtype."""
    _check(gate, up, activation)
    return Launch(
        source=_SOURCE,
        inputs=(gate, up),
        template=(("T", gate.dtype), ("TANH_GELU", activation == "gelu_tanh")),
        grid=(gate.size // _VALUES, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=(gate.shape,),
        output_dtypes=(gate.dtype,),
    )


def reference(gate: mx.array, up: mx.array, *, activation: str = "silu") -> tuple[mx.array, ...]:
    """As `launch`, in MLX operations."""
    _check(gate, up, activation)
    g = gate.astype(mx.float32)
    if activation == "silu":
        activated = g * mx.sigmoid(g)
    else:
        activated = 0.5 * g * (1 + mx.tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)))
    return (butterfly(activated * up.astype(mx.float32)).astype(gate.dtype),)


def cases() -> tuple[Case, ...]:
    """Both activations, every dtype."""
    made = []
    for seed, (dtype, shape, activation) in enumerate(
        (
            (mx.float32, (3, 160), "silu"),
            (mx.bfloat16, (1, 2, 96), "silu"),
            (mx.float16, (2, 64), "gelu_tanh"),
        )
    ):
        keys = mx.random.split(mx.random.key(seed))
        gate, up = (mx.random.normal(shape, key=key).astype(dtype) for key in keys)
        name = f"{activation} {dtype} {shape}"
        made.append(Case(name, (gate, up), {"activation": activation}, TOLERANCE[dtype]))
    return tuple(made)


swiglu_rht = Kernel("swiglu_rht", launch, reference, cases)
