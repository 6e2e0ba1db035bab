"""Inputs that attention over packed codes is checked on."""

from __future__ import annotations

import mlx.core as mx

from bitbudget.metal_kernels.blocks import BLOCK
from bitbudget.metal_kernels.codes import BOOK_ENTRIES
from bitbudget.metal_kernels.kernel import TOLERANCE, Case

__all__ = ["attention_case", "cases"]


def attention_case(
    dtype: mx.Dtype,
    bits: tuple[int, int],
    widths: tuple[int, int],
    *,
    heads: tuple[int, int] = (4, 2),
    queries: int = 1,
    context: int = 70,
    capacity: int = 256,
    batch: int = 1,
    causal: bool = False,
    seed: int = 0,
) -> Case:
    """Return random queries, codes, scales and codebooks; `heads` are those of queries and keys."""
    keys = mx.random.split(mx.random.key(sum(bits) * 1000 + sum(widths) + context + seed), 6)
    shared = (batch, heads[1], capacity)
    codes = [
        mx.random.randint(0, 1 << 32, (*shared, width * b // BLOCK), mx.int64, key=key).astype(
            mx.uint32
        )
        for width, b, key in zip(widths, bits, keys[:2], strict=True)
    ]
    scales = [
        mx.random.uniform(0.5, 1.5, (*shared, 1), key=key).astype(mx.float16) for key in keys[2:4]
    ]
    asked = mx.random.normal((batch, heads[0], queries, widths[0]), key=keys[4]).astype(dtype)
    books = mx.random.normal((2, BOOK_ENTRIES), key=keys[5])
    arguments = (asked, codes[0], scales[0], codes[1], scales[1], books, mx.array(context))
    options = {"key_bits": bits[0], "value_bits": bits[1], "scale": widths[0] ** -0.5}
    name = f"{dtype} t{bits[0]} t{bits[1]} {widths} {heads} {queries} {context} of {capacity}"
    return Case(name, arguments, {**options, "causal": causal}, 10 * TOLERANCE[mx.float32])


def cases() -> tuple[Case, ...]:
    """Every width of a code on either side, odd contexts, several splits, both masks."""
    return (
        attention_case(mx.float32, (4, 4), (64, 64)),
        attention_case(mx.bfloat16, (3, 2), (128, 128), queries=3, context=300, capacity=768),
        attention_case(mx.float16, (2, 3), (96, 32), heads=(3, 1), queries=5, causal=True),
        attention_case(mx.float32, (4, 3), (256, 64), heads=(16, 2), context=1, batch=2),
        attention_case(mx.float32, (2, 2), (32, 32), heads=(1, 1), context=1, capacity=1),
        attention_case(
            mx.bfloat16, (4, 2), (64, 128), queries=8, context=513, capacity=768, causal=True
        ),
    )
