"""Attention over stored keys and values against mlx-lm's own and against float64."""

from __future__ import annotations

import importlib
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import QuantizedKVCache

from bitbudget.kv import attention
from bitbudget.kv.cache import CodecKVCache, register
from bitbudget.kv.codecs import AffineCodec, Codec, RotatedCodec
from bitbudget.kv.packed import attend_packed, is_packed

base: Any = importlib.import_module("mlx_lm.models.base")

BATCH, KEY_HEADS, CONTEXT, WIDTH = 2, 2, 100, 64
MASKS = ("none", "causal", "boolean", "additive", "per head", "window")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setattr(attention, "QUERY_TILE", 16)


def draw(*shape: int, seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def mask_of(kind: str, heads: int, queries: int) -> Any:
    allowed = np.random.default_rng(9).random((queries, CONTEXT)) > 0.3
    allowed[:, 0] = True
    rows = np.arange(CONTEXT - queries, CONTEXT)[:, None]
    columns = np.arange(CONTEXT)
    match kind:
        case "none" | "causal":
            return None if kind == "none" else kind
        case "boolean":
            return mx.array(allowed)
        case "additive":
            return mx.array(np.where(allowed, 0.0, -1e9).astype(np.float32))
        case "window":
            return mx.array((columns <= rows) & (columns > rows - 20))
        case _:
            return mx.array(np.broadcast_to(allowed, (BATCH, heads, queries, CONTEXT)).copy())


def attend(queries: mx.array, cache: Any, mask: Any, dtype: mx.Dtype = mx.float32) -> np.ndarray:
    keys, values = (draw(BATCH, KEY_HEADS, CONTEXT, WIDTH, seed=s).astype(dtype) for s in (1, 2))
    stored_keys, stored_values = cache.update_and_fetch(keys, values)
    own = queries + 0  # mlx-lm scales the queries in place
    out = base.scaled_dot_product_attention(
        own, stored_keys, stored_values, cache=cache, scale=0.125, mask=mask
    )
    return np.array(out.astype(mx.float32))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("queries", [1, 8, 9, 40])
@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize(("bits", "group_size"), [(8, 64), (4, 32)])
def test_affine_codes_give_what_mlx_lm_gives(
    bits: int, group_size: int, heads: int, queries: int, mask: str
) -> None:
    asked = draw(BATCH, heads, queries, WIDTH, seed=queries)
    codec = AffineCodec(bits, group_size)
    shown = mask_of(mask, heads, queries)
    if mask == "per head" and heads > KEY_HEADS:
        shown = shown[:, :1]  # mlx-lm broadcasts one head's mask over grouped queries
    stock = attend(asked, QuantizedKVCache(group_size=group_size, bits=bits), shown)
    assert np.allclose(attend(asked, CodecKVCache(codec, codec), shown), stock, atol=2e-6)


def test_in_bfloat16_it_is_as_near_as_rounding_allows() -> None:
    asked, codec = draw(BATCH, 8, 40, WIDTH, seed=3), AffineCodec(8, 64)
    exact = attend(asked, CodecKVCache(codec, codec), "causal")
    rounded = asked.astype(mx.bfloat16)
    ours = attend(rounded, CodecKVCache(codec, codec), "causal", mx.bfloat16)
    stock = attend(rounded, QuantizedKVCache(group_size=64, bits=8), "causal", mx.bfloat16)
    assert np.abs(ours - exact).max() <= 1.5 * np.abs(stock - exact).max() + 2**-8


@pytest.mark.parametrize("queries", [1, 9, 40])
@pytest.mark.parametrize("keys", [RotatedCodec(4, WIDTH, 1), AffineCodec(8, 32)])
@pytest.mark.parametrize("values", [RotatedCodec(3, WIDTH, 2), AffineCodec(4, 64)])
def test_any_two_codecs_attend_over_what_they_stored(
    keys: Codec, values: Codec, queries: int
) -> None:
    asked = draw(BATCH, 4, queries, WIDTH, seed=4)
    found = attend(asked, CodecKVCache(keys, values), "causal")
    k, v = (
        np.array(codec.leave(codec.decode(codec.encode(x), mx.float32)), np.float64)
        for codec, x in (
            (keys, draw(BATCH, KEY_HEADS, CONTEXT, WIDTH, seed=1)),
            (values, draw(BATCH, KEY_HEADS, CONTEXT, WIDTH, seed=2)),
        )
    )
    k, v = (np.repeat(x, 4 // KEY_HEADS, axis=1) for x in (k, v))
    scores = np.array(asked, np.float64) @ k.swapaxes(-1, -2) * 0.125
    rows = np.arange(CONTEXT - queries, CONTEXT)[:, None]
    scores = np.where(np.arange(CONTEXT) <= rows, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    assert np.allclose(found, expected, atol=2e-5)


def test_sinks_are_refused_by_name() -> None:
    codec = AffineCodec(8, 64)
    cache = CodecKVCache(codec, codec)
    keys, values = (draw(BATCH, KEY_HEADS, CONTEXT, WIDTH, seed=s) for s in (1, 2))
    stored_keys, stored_values = cache.update_and_fetch(keys, values)
    asked = draw(BATCH, 2, 9, WIDTH, seed=5)
    with pytest.raises(ValueError, match="sinks"):
        base.scaled_dot_product_attention(
            asked, stored_keys, stored_values, cache=cache, scale=1.0, mask=None, sinks=mx.zeros(2)
        )


def test_installing_twice_wraps_once() -> None:
    before = base.quantized_scaled_dot_product_attention
    attention.install()
    assert base.quantized_scaled_dot_product_attention is before


@pytest.mark.parametrize(("queries", "mask"), [(1, None), (3, None), (8, "causal")])
@pytest.mark.parametrize("bits", [(4, 4), (3, 2)])
def test_packed_attention_gives_what_dequantized_attention_gives(
    bits: tuple[int, int], queries: int, mask: str | None
) -> None:
    cache = CodecKVCache(*(RotatedCodec(b, WIDTH, seed) for seed, b in enumerate(bits)))
    asked = draw(BATCH, 4, queries, WIDTH, seed=6)
    expected = attend(asked, cache, mask)
    keys, values = cache.keys_and_values()
    assert is_packed(keys, values, mask)
    assert keys.held[0].shape[-2] == 256, "the arrays of the cache, whole"
    mx.disable_compile()  # on CPUs MLX would start a C++ compiler
    try:
        found = attend_packed(asked, keys, values, scale=0.125, causal=mask is not None)
    finally:
        mx.enable_compile()
    assert np.allclose(np.array(found), expected, atol=2e-6)


def test_packed_attention_takes_rotated_codes_and_plain_masks_only() -> None:
    rotated, affine = RotatedCodec(4, WIDTH, 1), AffineCodec(8, 64)
    for codecs, mask in (
        ((rotated, affine), None),
        ((affine, rotated), None),
        ((rotated, rotated), mx.ones((1, CONTEXT), mx.bool_)),
    ):
        cache = CodecKVCache(*codecs)
        attend(draw(BATCH, 4, 1, WIDTH, seed=6), cache, None)
        assert not is_packed(*cache.keys_and_values(), mask)
