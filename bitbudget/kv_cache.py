"""The KV cache that an allocation chose, made of mlx-lm's own caches.

mlx-lm's `--kv-bits` is one number for all layers, but its attention asks each layer's cache for its
bits and group size: a list with one `QuantizedKVCache` per layer is served by stock code.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["MANIFEST_NAME", "chosen_formats", "make_cache"]

MANIFEST_NAME: Final = "manifest.json"


def chosen_formats(manifest: Path) -> dict[int, tuple[int, int]]:
    """Return (bits, group size) by cache layer; empty where a manifest leaves the caches alone."""
    if not manifest.is_file():
        return {}
    chosen = json.loads(manifest.read_bytes()).get("kv_cache") or {}
    return {int(layer): (choice["bits"], choice["group_size"]) for layer, choice in chosen.items()}


def make_cache(model: Any, formats: Mapping[int, tuple[int, int]]) -> list[Any]:
    """Return the model's own caches, quantized where `formats` says so.

    Pass it as `prompt_cache` to `mlx_lm.generate` or `stream_generate`, without `kv_bits`.
    """
    caching = importlib.import_module("mlx_lm.models.cache")
    stock = type(model).make_cache if hasattr(type(model), "make_cache") else None
    caches = list(stock(model)) if stock else [caching.KVCache() for _ in model.layers]
    for layer, (bits, group_size) in formats.items():
        if group_size:
            caches[layer] = caching.QuantizedKVCache(group_size=group_size, bits=bits)
    return caches
