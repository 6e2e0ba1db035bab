"""The transform all kernels share: Hadamard's matrix on blocks of 32, in MLX operations.

B is the 32 x 32 matrix of +-1 in Sylvester's order, symmetric, B B = 32 I. Kernels apply the
bare B; signs and the scale are folded into what stands before (norm scales, rows of up and v
projections) and behind it (the weights): 32 = 4 x 8, so that both foldings are exact in every
float type.
"""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx

__all__ = ["BLOCK", "KernelInputError", "butterfly", "check_blocks", "hadamard_matrix"]

BLOCK = 32
"""Values in a block, which is also the number of lanes in a SIMD group."""

FLOATS = (mx.float32, mx.float16, mx.bfloat16)


class KernelInputError(ValueError):
    """A kernel was given arrays it is not made for; the message says which and why."""


@lru_cache
def hadamard_matrix() -> mx.array:
    """Return B, float32 of shape (32, 32)."""
    rows = [[1 - 2 * ((i & j).bit_count() & 1) for j in range(BLOCK)] for i in range(BLOCK)]
    return mx.array(rows, dtype=mx.float32)


def butterfly(x: mx.array) -> mx.array:
    """Return B x for every block of 32 along the last axis, in float32."""
    blocks = x.astype(mx.float32).reshape(-1, BLOCK)
    return (blocks @ hadamard_matrix()).reshape(x.shape)


def check_blocks(name: str, x: mx.array) -> None:
    """Raise KernelInputError unless `x` is a float array of whole blocks."""
    if x.dtype not in FLOATS:
        raise KernelInputError(f"{name}: found {x.dtype}, expected float32, float16 or bfloat16")
    if x.ndim == 0 or x.size == 0 or x.shape[-1] % BLOCK:
        raise KernelInputError(
            f"{name}: found shape {tuple(x.shape)}, expected a last axis that is a multiple of 32"
        )
