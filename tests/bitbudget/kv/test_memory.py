"""What attention at prefill allocates, against the formula that allocations count with."""

from __future__ import annotations

import importlib
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import QuantizedKVCache

from bitbudget.app.core.inventory import Architecture, CacheKind, CacheLayer
from bitbudget.app.core.memory import attention_bytes
from bitbudget.app.core.runtime import Runtime
from bitbudget.kv import attention
from bitbudget.kv.cache import CodecKVCache, register
from bitbudget.kv.codecs import AffineCodec, RotatedCodec

base: Any = importlib.import_module("mlx_lm.models.base")

HEADS, KEY_HEADS, WIDTH, QUERIES = 4, 2, 32, 1024
CACHES: dict[str, Any] = {
    "affine": lambda: CodecKVCache(AffineCodec(8, 32), AffineCodec(4, 32)),
    "rotated": lambda: CodecKVCache(RotatedCodec(4, WIDTH, 0), RotatedCodec(3, WIDTH, 1)),
    "stock": lambda: QuantizedKVCache(group_size=32, bits=8),
}


def architecture() -> Architecture:
    layer = CacheLayer(
        0,
        CacheKind.FULL,
        elements_per_token=2 * KEY_HEADS * WIDTH,
        head_width=WIDTH,
        value_width=WIDTH,
    )
    return Architecture(
        model_type="test",
        layers=1,
        hidden_size=HEADS * WIDTH,
        intermediate_size=1,
        vocabulary_size=1,
        max_context=1 << 20,
        attention_heads=HEADS,
        cache=(layer,),
    )


def filled(kind: str, tokens: int) -> Any:
    """Return a cache of `tokens`, and what its last update returned."""
    cache = CACHES[kind]()
    stored = None
    for start in range(0, tokens, QUERIES):
        x = mx.random.normal((1, KEY_HEADS, QUERIES, WIDTH), key=mx.random.key(start))
        stored = cache.update_and_fetch(x, x)
        mx.eval(cache.keys, cache.values)
    return cache, stored


def attend(kind: str, context: int) -> int:
    """Return the bytes that attention of a prefill step allocates at its peak."""
    cache, (keys, values) = filled(kind, context)
    queries = mx.random.normal((1, HEADS, QUERIES, WIDTH))
    mx.eval(queries, keys, values)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(
        base.scaled_dot_product_attention(
            queries, keys, values, cache=cache, scale=0.1, mask="causal"
        )
    )
    peak: int = mx.get_peak_memory() - before
    return peak


@pytest.mark.parametrize("context", [4096, 8192, 16384])
@pytest.mark.parametrize("kind", ["affine", "rotated"])
def test_tiles_of_an_unfused_width_take_what_the_formula_says(kind: str, context: int) -> None:
    register()
    counted = attention_bytes(architecture(), QUERIES, context, 4, Runtime.BITBUDGET)
    assert attend(kind, context) == pytest.approx(counted, rel=0.1)


def test_the_stock_product_takes_what_the_formula_says_and_more_than_tiles() -> None:
    counted = attention_bytes(architecture(), QUERIES, 4096, 4, Runtime.STOCK)
    stock = attend("stock", 4096)
    assert stock == pytest.approx(counted, rel=0.1)
    assert attend("affine", 4096) < 0.65 * stock


def shapes(
    cache: Any, stored: Any, queries: int, monkeypatch: pytest.MonkeyPatch
) -> set[tuple[int, ...]]:
    """Return the shapes of all arrays of the exported graph of attention over `cache`.

    MLX has its fused kernel in GPU builds only. Here an operation of the same inputs and output
    stands for it, which holds no scores, so what is left is what our code holds.
    """

    def fused(q: mx.array, k: mx.array, v: mx.array, **_: Any) -> mx.array:
        return q + (k.sum() + v.sum())

    monkeypatch.setattr(attention, "_is_fused", lambda _: True)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", fused)
    found: set[tuple[int, ...]] = set()

    def note(event: dict[str, Any]) -> None:
        for _, shape, _ in event.get("outputs", ()):
            found.add(tuple(shape))

    def call(x: mx.array) -> mx.array:
        keys, values = stored
        out: mx.array = base.scaled_dot_product_attention(
            x, keys, values, cache=cache, scale=0.1, mask="causal"
        )
        return out

    mx.export_function(note, call, mx.zeros((1, HEADS, queries, WIDTH)))
    assert found
    return found


@pytest.mark.parametrize("kind", ["affine", "rotated", "stock"])
def test_the_fused_path_holds_no_array_of_queries_by_context(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    context, queries = 3 * QUERIES, 640
    cache, stored = filled(kind, context)
    found = shapes(cache, stored, queries, monkeypatch)
    assert any(shape[-2:] == (queries, context) for shape in found) == (kind == "stock")
