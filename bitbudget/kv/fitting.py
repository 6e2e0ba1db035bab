"""Whether a model can have the KV formats that a manifest chose."""

from __future__ import annotations

import importlib
from typing import Any, Final

import mlx.core as mx

from bitbudget.kv.cache import own_caches
from bitbudget.kv.codecs import PlainCodec
from bitbudget.kv.manifest import ChosenCaches, wrong_format

__all__ = ["check_fits"]

_STOCK: Final[Any] = importlib.import_module("mlx_lm.models.cache")
_FEW_TOKENS: Final = 2


def check_fits(model: Any, chosen: ChosenCaches) -> None:
    """Raise InvalidModelError, with layer and format, unless `model` can have `chosen`.

    The widths of its heads are those of a pass of which nothing is evaluated.
    """
    caches = own_caches(model)
    for layer in chosen.codecs:
        if layer >= len(caches):
            where = f"kv_cache, layer {layer}"
            raise wrong_format(where, "a format", f"layers of the model, 0 to {len(caches) - 1}")
    model(mx.zeros((1, _FEW_TOKENS), mx.int32), cache=caches)
    for layer, codecs in chosen.codecs.items():
        for side, codec in zip(("keys", "values"), codecs, strict=True):
            if not isinstance(codec, PlainCodec):
                _check_side(layer, side, codec, caches[layer])


def _check_side(layer: int, side: str, codec: Any, cache: Any) -> None:
    refused = _refusal(codec, cache, side)
    if refused:
        raise wrong_format(f"kv_cache, layer {layer}, {side}", codec.name, refused)


def _refusal(codec: Any, cache: Any, side: str) -> str:
    """Return what is expected instead of this format; nothing where it can be had."""
    if type(cache) is not _STOCK.KVCache:
        return f"the model's own type: this layer has a {type(cache).__name__}"
    vectors = getattr(cache, side)
    width = 0 if vectors is None else vectors.shape[-1]
    if codec.takes(width):
        return ""
    return f"a format for heads of {width} channels"
