"""Attention over stored keys and values without holding scores of queries x context.

mlx-lm multiplies packed keys and values directly, which at prefill holds `heads x tokens x context`
scores. Here the keys and values of one layer are dequantized and go through the fused kernel in
tiles of queries. A few queries over rotated codes run in one kernel of ours where there is Metal.
Every mlx-lm model calls `mlx_lm.models.base.scaled_dot_product_attention`, which passes caches with
`bits` on to one function: that one is wrapped, once, and acts on `Stored` only.
"""

from __future__ import annotations

import importlib
from typing import Any, Final, Self

import mlx.core as mx

from bitbudget.app.core.memory import FUSED_WIDTHS, QUERY_TILE
from bitbudget.kv.codecs import AffineCodec, Arrays, Codec
from bitbudget.kv.packed import attend_packed, is_packed
from bitbudget.metal_kernels import turbo_attend

__all__ = ["FEW_QUERIES", "QUERY_TILE", "Stored", "attend", "install"]

FEW_QUERIES: Final = 8
"""Up to so many queries, scores are small and packed products read less than dequantizing does."""
_FUNCTION: Final = "quantized_scaled_dot_product_attention"


class Stored(tuple[mx.array, ...]):  # noqa: SLOT001 - the codec is an attribute
    """The stored arrays of keys or values, with the codec that made them."""

    codec: Codec
    held: Arrays
    """What the cache holds, of which these are the first tokens: whole, hence contiguous."""

    def __new__(cls, held: Arrays, codec: Codec, tokens: int) -> Self:
        """Return the first `tokens` of `held`, arrays (..., room for tokens, width)."""
        self = super().__new__(cls, (x[..., :tokens, :] for x in held))
        self.codec, self.held = codec, held
        return self


def install() -> None:
    """Wrap mlx-lm's attention over quantized caches, once per process."""
    base = importlib.import_module("mlx_lm.models.base")
    stock = getattr(base, _FUNCTION)
    if getattr(stock, "wraps_stock", False):
        return

    def dispatch(  # noqa: PLR0917 - the signature of mlx-lm
        queries: mx.array,
        q_keys: Any,
        q_values: Any,
        scale: float,
        mask: Any,
        group_size: int = 64,
        bits: int = 8,
    ) -> mx.array:
        """Attend over our stored keys and values, and leave all others to mlx-lm."""
        if isinstance(q_keys, Stored):
            return attend(queries, q_keys, q_values, scale=scale, mask=mask, stock=stock)
        out: mx.array = stock(queries, q_keys, q_values, scale, mask, group_size, bits)
        return out

    dispatch.wraps_stock = True  # type: ignore[attr-defined]
    setattr(base, _FUNCTION, dispatch)


def attend(
    queries: mx.array, keys: Stored, values: Stored, *, scale: float, mask: Any, stock: Any
) -> mx.array:
    """Return softmax(scale Q K^T + mask) V, (batch, heads, queries, value width).

    Args:
        queries: (batch, heads, queries, key width), in the model's space.
        keys: Of (batch, key heads, context, width); key heads divide heads.
        values: As `keys`.
        scale: Factor of the scores.
        mask: None, "causal", or an array that broadcasts to (batch, heads, queries, context):
            boolean, or added to the scores.
        stock: mlx-lm's own function, for few queries over affine codes of one format.
    """
    count = queries.shape[-2]
    if count <= FEW_QUERIES and _is_stock(keys.codec, values.codec):
        codec: Any = keys.codec
        out: mx.array = stock(
            queries, tuple(keys), tuple(values), scale, mask, codec.group_size, codec.bits
        )
        return out
    if count <= FEW_QUERIES and turbo_attend.runs and is_packed(keys, values, mask):
        return attend_packed(queries, keys, values, scale=scale, causal=mask is not None)
    turned = keys.codec.enter(queries)
    dense_keys = keys.codec.decode(keys, queries.dtype)
    dense_values = values.codec.decode(values, queries.dtype)
    context = dense_keys.shape[-2]
    size = count if _is_fused(turned.shape[-1]) else QUERY_TILE
    tiles = []
    for start in range(0, count, size):
        end = min(start + size, count)
        visible = context - count + end if isinstance(mask, str) else context
        tiles.append(
            mx.fast.scaled_dot_product_attention(
                turned[..., start:end, :],
                dense_keys[..., :visible, :],
                dense_values[..., :visible, :],
                scale=scale,
                mask=_rows(mask, start, end, count),
            )
        )
        if count > size:
            # evaluated at once: MLX would allocate the scores of later tiles before it frees these
            mx.eval(tiles[-1])
    joined = tiles[0] if len(tiles) == 1 else mx.concatenate(tiles, axis=-2)
    return values.codec.leave(joined)


def _is_stock(keys: Codec, values: Codec) -> bool:
    return isinstance(keys, AffineCodec) and keys == values


def _is_fused(width: int) -> bool:
    """Whether MLX attends without holding scores: on a GPU, for some widths of a head."""
    return bool(mx.default_device() == mx.Device(mx.gpu)) and width in FUSED_WIDTHS


def _rows(mask: Any, start: int, end: int, count: int) -> Any:
    """Return the mask of some queries; "causal" counts from the last key, which it keeps."""
    if mask is None or isinstance(mask, str) or mask.shape[-2] != count:
        return mask
    return mask[..., start:end, :]
