"""Attention of few queries over keys and values that are packed codes of rotated codebooks.

The context is split over SIMD groups, which read every code once and hold no scores: each gives
what softmax needs of its part (largest score, sum of weights, weighted sum of values), and `joined`
puts the parts together. Queries are rotated before, the output is rotated back after.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from bitbudget.metal_kernels.attention_cases import cases
from bitbudget.metal_kernels.blocks import BLOCK, FLOATS, KernelInputError
from bitbudget.metal_kernels.codes import BOOK_ENTRIES, CODE_BITS, unpacked
from bitbudget.metal_kernels.kernel import Kernel
from bitbudget.metal_kernels.launch import Launch, Source

__all__ = [
    "dequantized",
    "joined",
    "splits_of",
    "turbo_attend",
]

_SOURCE = Source(
    name="bitbudget_turbo_attend",
    inputs=(
        "queries",
        "key_codes",
        "key_scales",
        "value_codes",
        "value_scales",
        "books",
        "context",
        "factor",
    ),
    outputs=("partials", "maxima", "sums"),
    body="turbo_attend",
    headers=("affine",),
)
_CODES = 8
"""Codes that a lane unpacks together."""
_HELD = 64
"""Floats of queries and outputs that a lane keeps in registers."""
_LOWEST = -3.0e38
_SPLIT_TOKENS = 256
_MOST_SPLITS = 64
_SIMD_GROUPS = 4
_LEAST_WORDS = 8
"""MLX hands smaller arrays over in another address space."""


@dataclass(frozen=True)
class _Shape:
    batch: int
    key_heads: int
    rows: int
    capacity: int
    key_width: int
    value_width: int

    @property
    def heads(self) -> int:
        return self.batch * self.key_heads


def splits_of(capacity: int) -> int:
    """Return the parts that a context with room for `capacity` tokens is split into."""
    return max(1, min(_MOST_SPLITS, -(-capacity // _SPLIT_TOKENS)))


def _check(  # noqa: PLR0917 - the arrays of the kernel
    queries: mx.array,
    key_codes: mx.array,
    key_scales: mx.array,
    value_codes: mx.array,
    value_scales: mx.array,
    books: mx.array,
    *,
    key_bits: int,
    value_bits: int,
) -> _Shape:
    if queries.dtype not in FLOATS or queries.ndim != 4 or queries.shape[-1] % BLOCK:  # noqa: PLR2004
        raise KernelInputError(
            f"queries: found {queries.dtype} {tuple(queries.shape)}, expected floats of shape "
            "(batch, heads, queries, width), width a multiple of 32"
        )
    if key_bits not in CODE_BITS or value_bits not in CODE_BITS:
        raise KernelInputError(
            f"found {key_bits} bits for keys, {value_bits} for values, expected bits of {CODE_BITS}"
        )
    batch, heads, count, width = queries.shape
    key_heads, capacity = key_codes.shape[1:3]
    value_width = value_codes.shape[-1] * BLOCK // value_bits
    _check_side("key", key_codes, key_scales, (batch, key_heads, capacity), width, key_bits)
    _check_side(
        "value", value_codes, value_scales, (batch, key_heads, capacity), value_width, value_bits
    )
    if heads % key_heads or books.shape != (2, BOOK_ENTRIES) or books.dtype != mx.float32:
        raise KernelInputError(
            f"found {heads} heads over {key_heads} and books {books.dtype} {tuple(books.shape)}, "
            f"expected a multiple of the key heads and float32 (2, {BOOK_ENTRIES})"
        )
    rows = heads // key_heads * count
    return _Shape(batch, key_heads, rows, capacity, width, value_width)


def _check_side(  # noqa: PLR0917 - one side of the kernel's arrays
    side: str,
    codes: mx.array,
    scales: mx.array,
    shared: tuple[int, ...],
    width: int,
    bits: int,
) -> None:
    expected = (*shared, width * bits // BLOCK)
    if codes.dtype != mx.uint32 or codes.shape != expected or width % BLOCK:
        raise KernelInputError(
            f"{side}_codes: found {codes.dtype} {tuple(codes.shape)}, expected uint32 {expected}"
        )
    if scales.dtype != mx.float16 or scales.shape != (*shared, 1):
        raise KernelInputError(
            f"{side}_scales: found {scales.dtype} {tuple(scales.shape)}, "
            f"expected float16 {(*shared, 1)}"
        )


def _lanes(width: int) -> int:
    """Return the lanes that share one token: the power of two at or above width / 8, at most 32."""
    units = width // _CODES
    return min(BLOCK, 1 << (units - 1).bit_length())


def _row_tile(shape: _Shape) -> int:
    """Return the query rows of a SIMD group: as many as registers hold, tiles of equal size."""
    floats = sum(
        -(-width // _CODES // _lanes(width)) * _CODES
        for width in (shape.key_width, shape.value_width)
    )
    tiles = -(-shape.rows // max(1, _HELD // floats))
    return -(-shape.rows // tiles)


def _flat(codes: mx.array) -> mx.array:
    words = codes.reshape(-1)
    missing = _LEAST_WORDS - words.size
    return words if missing <= 0 else mx.pad(words, (0, missing))


def launch(  # noqa: PLR0917 - the arrays of the kernel
    queries: mx.array,
    key_codes: mx.array,
    key_scales: mx.array,
    value_codes: mx.array,
    value_scales: mx.array,
    books: mx.array,
    context: mx.array,
    *,
    key_bits: int,
    value_bits: int,
    scale: float,
    causal: bool = False,
) -> Launch:
    """Return weighted sums of values, largest scores and sums of weights of each split.

    Args:
        queries: (batch, heads, queries, key width), in the rotated space of the keys.
        key_codes: (batch, key heads, capacity, key width * bits / 32), uint32.
        key_scales: (batch, key heads, capacity, 1), float16.
        value_codes: As `key_codes`.
        value_scales: As `key_scales`.
        books: (2, 16) float32, the codebooks of keys and of values, padded.
        context: How many of the tokens there is room for are there; int32 of no axes, so that a
            growing context compiles nothing anew.
        key_bits: Bits of a key's code.
        value_bits: Bits of a value's code.
        scale: Factor of the scores.
        causal: Whether the last query sees all of the context, the one before it a token less, ...

    Outputs are float32: (batch, key heads, splits, rows, value width) and twice that without the
    last axis. Rows are the queries of all heads that share a key head, head after head.
    """
    shape = _check(
        queries,
        key_codes,
        key_scales,
        value_codes,
        value_scales,
        books,
        key_bits=key_bits,
        value_bits=value_bits,
    )
    splits, tile = splits_of(shape.capacity), _row_tile(shape)
    parts = (shape.batch, shape.key_heads, splits, shape.rows)
    return Launch(
        source=_SOURCE,
        inputs=(
            queries.reshape(shape.heads, shape.rows, shape.key_width),
            _flat(key_codes),
            key_scales.reshape(shape.heads, shape.capacity),
            _flat(value_codes),
            value_scales.reshape(shape.heads, shape.capacity),
            books.reshape(-1),
            context.astype(mx.int32),
            mx.array(scale, dtype=mx.float32),
        ),
        template=(
            ("T", queries.dtype),
            ("KEY_BITS", key_bits),
            ("VALUE_BITS", value_bits),
            ("KEY_WIDTH", shape.key_width),
            ("VALUE_WIDTH", shape.value_width),
            ("KEY_LANES", _lanes(shape.key_width)),
            ("VALUE_LANES", _lanes(shape.value_width)),
            ("ROWS", tile),
            ("QUERIES", queries.shape[2]),
            ("CAUSAL", causal),
        ),
        grid=(-(-shape.rows // tile) * BLOCK, splits, shape.heads),
        threadgroup=(BLOCK, min(splits, _SIMD_GROUPS), 1),
        output_shapes=((*parts, shape.value_width), parts, parts),
        output_dtypes=(mx.float32,) * 3,
    )


def reference(  # noqa: PLR0917 - as `launch`
    queries: mx.array,
    key_codes: mx.array,
    key_scales: mx.array,
    value_codes: mx.array,
    value_scales: mx.array,
    books: mx.array,
    context: mx.array,
    *,
    key_bits: int,
    value_bits: int,
    scale: float,
    causal: bool = False,
) -> tuple[mx.array, ...]:
    """As `launch`, in MLX operations: keys, values and scores are held whole."""
    shape = _check(
        queries,
        key_codes,
        key_scales,
        value_codes,
        value_scales,
        books,
        key_bits=key_bits,
        value_bits=value_bits,
    )
    keys = dequantized(key_codes, key_scales, books[0], key_bits)
    values = dequantized(value_codes, value_scales, books[1], value_bits)
    asked = queries.astype(mx.float32).reshape(shape.batch, shape.key_heads, shape.rows, -1)
    scores = (asked * scale) @ keys.swapaxes(-1, -2)
    visible = _visible(context, shape, queries.shape[2], causal=causal)
    split_scores = _split(mx.where(visible, scores, _LOWEST), _LOWEST)
    maxima = split_scores.max(axis=-1)
    weights = mx.exp(split_scores - maxima[..., None])
    weights = mx.where(split_scores > _LOWEST, weights, 0)
    split_values = _split(values.swapaxes(-1, -2), 0).swapaxes(-1, -2)
    return weights @ split_values, maxima, weights.sum(axis=-1)


def dequantized(codes: mx.array, scales: mx.array, book: mx.array, bits: int) -> mx.array:
    """Return scale times codebook entry, (..., tokens, width), float32."""
    return book[unpacked(codes, bits)] * scales.astype(mx.float32)


def _visible(context: mx.array, shape: _Shape, queries: int, *, causal: bool) -> mx.array:
    """Return which tokens each row sees, (rows, capacity) or what broadcasts to it."""
    tokens = mx.arange(shape.capacity)[None, :]
    if not causal:
        return tokens < context
    return tokens <= context - queries + (mx.arange(shape.rows) % queries)[:, None]


def _split(x: mx.array, filling: float) -> mx.array:
    """Return (batch, key heads, splits, n, length) of `x` (batch, key heads, n, capacity)."""
    capacity = x.shape[-1]
    splits = splits_of(capacity)
    length = -(-capacity // (splits * BLOCK)) * BLOCK
    padding = [(0, 0)] * (x.ndim - 1) + [(0, splits * length - capacity)]
    padded = mx.pad(x, padding, constant_values=filling)
    return padded.reshape(*x.shape[:-1], splits, length).swapaxes(2, 3)


def joined(partials: mx.array, maxima: mx.array, sums: mx.array) -> mx.array:
    """Return the attention output (batch, key heads, rows, value width), float32, of all splits."""
    shares = mx.exp(maxima - maxima.max(axis=2, keepdims=True))
    total = (sums * shares).sum(axis=2)
    return (partials * shares[..., None]).sum(axis=2) / total[..., None]


turbo_attend = Kernel("turbo_attend", launch, reference, cases)
