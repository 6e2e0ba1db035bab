"""Attention of a few queries over rotated codes as they are stored: `turbo_attend`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from bitbudget.kv.codecs import RotatedCodec
from bitbudget.metal_kernels import turbo_attend
from bitbudget.metal_kernels.codes import BOOK_ENTRIES
from bitbudget.metal_kernels.turbo_attend import joined

if TYPE_CHECKING:
    from bitbudget.kv.attention import Stored

__all__ = ["attend_packed", "is_packed"]


def is_packed(keys: Stored, values: Stored, mask: Any) -> bool:
    """Whether both sides are rotated codes and `mask` is one that the kernel has."""
    sides = (keys.codec, values.codec)
    known = mask is None or (isinstance(mask, str) and mask == "causal")
    return known and all(isinstance(codec, RotatedCodec) for codec in sides)


def attend_packed(
    queries: mx.array, keys: Stored, values: Stored, *, scale: float, causal: bool
) -> mx.array:
    """Return softmax(scale Q K^T) V, (batch, heads, queries, value width).

    Queries are in the model's space; both sides are packed (see `is_packed`). The arrays of the
    cache are handed over whole, with the number of tokens: their first tokens alone would be copied
    to be contiguous, and every new token would be a new shape to compile.
    """
    codecs: tuple[Any, Any] = (keys.codec, values.codec)
    run = _compiled(codecs[0].bits, codecs[1].bits, scale, causal)
    turned = codecs[0].enter(queries)
    context = mx.array(keys[0].shape[-2], mx.int32)
    out = run(turned, *keys.held, *values.held, _books(*codecs), context)
    shape = (*queries.shape[:-1], codecs[1].width)
    rotated: mx.array = out.reshape(shape).astype(queries.dtype)
    left: mx.array = codecs[1].leave(rotated)
    return left


@lru_cache
def _compiled(key_bits: int, value_bits: int, scale: float, causal: bool) -> Any:  # noqa: FBT001
    """Return attention in these formats, compiled: Python builds its launch once a shape."""

    def attend(*arrays: mx.array) -> mx.array:
        options = {"key_bits": key_bits, "value_bits": value_bits, "scale": scale}
        return joined(*turbo_attend(*arrays, **options, causal=causal))

    compiled: Callable[..., mx.array] = mx.compile(attend)
    return compiled


@lru_cache
def _books(keys: RotatedCodec, values: RotatedCodec) -> mx.array:
    """Return the codebooks of keys and values, (2, 16), padded with zeros."""
    rows = [mx.pad(c.book, (0, BOOK_ENTRIES - c.book.size)) for c in (keys, values)]
    return mx.stack(rows)
