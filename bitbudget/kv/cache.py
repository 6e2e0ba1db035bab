"""The KV caches that an allocation chose, layer by layer, for mlx-lm's models.

Caches of affine codes alone are mlx-lm's own `QuantizedKVCache` under `stock`: its attention asks
each layer's cache for its bits and group size, so a list with one cache per layer is served by
stock code. `CodecKVCache` takes any two codecs, and its attention holds no scores of the context.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import mlx.core as mx
from mlx.utils import tree_reduce

from bitbudget.kv.attention import Stored, install
from bitbudget.kv.codecs import (
    AffineCodec,
    Arrays,
    Codec,
    PlainCodec,
    RotatedCodec,
    parse_codec,
)

__all__ = [
    "MANIFEST_NAME",
    "ChosenCaches",
    "CodecKVCache",
    "chosen_caches",
    "make_cache",
    "register",
]

_STOCK: Final[Any] = importlib.import_module("mlx_lm.models.cache")
MANIFEST_NAME: Final = "manifest.json"


class CodecKVCache:
    """Keys and values of one layer, each by its codec.

    Follows the protocol of mlx-lm's own caches: it grows in steps of 256 tokens, trims (speculative
    decoding) and goes through `save_prompt_cache` and `load_prompt_cache`, codecs included.
    """

    step = 256

    def __init__(self, keys: Codec, values: Codec) -> None:
        self.keys: Arrays | None = None
        self.values: Arrays | None = None
        self.offset = 0
        self.key_codec, self.value_codec = keys, values

    @property
    def bits(self) -> int:
        """Bits of the keys' codes: what mlx-lm tells a quantized cache by."""
        return self.key_codec.bits

    @property
    def group_size(self) -> int:
        """Group size that mlx-lm passes on; unused here."""
        return getattr(self.key_codec, "group_size", 0)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Stored, Stored]:
        """Store (batch, heads, tokens, width) more of both and return all that is stored."""
        start, self.offset = self.offset, self.offset + keys.shape[-2]
        self.keys = self._extended(self.keys, self.key_codec.encode(keys), start)
        self.values = self._extended(self.values, self.value_codec.encode(values), start)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Stored, Stored]:
        """Return what is stored, with the codecs."""
        stored = (self.keys, self.key_codec), (self.values, self.value_codec)
        keys, values = (
            Stored(tuple(x[..., : self.offset, :] for x in arrays or ()), codec)
            for arrays, codec in stored
        )
        return keys, values

    def _extended(self, held: Arrays | None, new: Arrays, start: int) -> Arrays:
        capacity = -(-self.offset // self.step) * self.step
        if held is None:
            held = tuple(mx.zeros((*x.shape[:-2], capacity, x.shape[-1]), x.dtype) for x in new)
        elif held[0].shape[-2] < self.offset:
            held = tuple(
                mx.concatenate([x, mx.zeros((*x.shape[:-2], more, x.shape[-1]), x.dtype)], axis=-2)
                for x in held
                for more in [capacity - x.shape[-2]]
            )
        for array, part in zip(held, new, strict=True):
            array[..., start : self.offset, :] = part
        return held

    @property
    def state(self) -> tuple[Any, ...]:
        """Return arrays, tokens and codecs, as `save_prompt_cache` writes them."""
        return self.keys, self.values, self.offset, self.key_codec.name, self.value_codec.name

    @state.setter
    def state(self, state: Any) -> None:
        keys, values, self.offset, key_codec, value_codec = state
        self.key_codec, self.value_codec = parse_codec(key_codec), parse_codec(value_codec)
        self.keys = None if keys is None else tuple(keys)
        self.values = None if values is None else tuple(values)

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Return the cache of a saved `state`; ValueError for a codec of another version."""
        cache = cls.__new__(cls)
        cache.state = state
        return cache

    def is_trimmable(self) -> bool:
        """Return True: the last tokens can be taken back."""
        return True

    def trim(self, n: int) -> int:
        """Forget the last `n` tokens; return how many there were to forget."""
        n = min(self.offset, n)
        self.offset -= n
        return n

    def size(self) -> int:
        """Return the tokens held."""
        return self.offset

    def make_mask(self, *args: Any, **kwargs: Any) -> Any:
        """Return the mask of the next tokens, as mlx-lm's plain cache does."""
        return _STOCK.create_attention_mask(*args, offset=self.offset, **kwargs)

    def empty(self) -> bool:
        """Whether nothing was stored yet."""
        return self.keys is None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that are allocated."""
        total: int = tree_reduce(lambda sum_, x: sum_ + x.nbytes, (self.keys, self.values), 0)
        return total


@dataclass(frozen=True, slots=True)
class ChosenCaches:
    """The caches that a manifest chose: codecs of keys and values by cache layer.

    `is_stock` says that mlx-lm's own quantized cache is to hold them, without our attention.
    """

    codecs: Mapping[int, tuple[Codec, Codec]] = field(default_factory=dict)
    is_stock: bool = True


def chosen_caches(manifest: Path) -> ChosenCaches:
    """Return what a manifest chose; no codecs where it leaves the caches alone.

    Raises ValueError for a codec that this version does not know.
    """
    if not manifest.is_file():
        return ChosenCaches()
    document = json.loads(manifest.read_bytes())
    codecs = {}
    for layer, sides in (document.get("kv_cache") or {}).items():
        keys, values = (sides.get(side) or sides["both"] for side in ("keys", "values"))
        codecs[int(layer)] = (_codec_of(keys), _codec_of(values))
    is_stock = document.get("request", {}).get("runtime", "stock") == "stock"
    return ChosenCaches(codecs, is_stock)


def _codec_of(choice: Mapping[str, Any]) -> Codec:
    if choice.get("rotated"):
        return RotatedCodec(choice["bits"], choice["width"], choice["seed"])
    group_size = choice["group_size"]
    return AffineCodec(choice["bits"], group_size) if group_size else PlainCodec()


def make_cache(model: Any, chosen: ChosenCaches) -> list[Any]:
    """Return the model's own caches, quantized where `chosen` says so.

    Pass it as `prompt_cache` to `mlx_lm.generate` or `stream_generate`, without `kv_bits`.
    """
    register()
    stock = type(model).make_cache if hasattr(type(model), "make_cache") else None
    caches = list(stock(model)) if stock else [_STOCK.KVCache() for _ in model.layers]
    for layer, (keys, values) in chosen.codecs.items():
        if isinstance(keys, PlainCodec) and isinstance(values, PlainCodec):
            continue
        if chosen.is_stock and isinstance(keys, AffineCodec) and keys == values:
            caches[layer] = _STOCK.QuantizedKVCache(group_size=keys.group_size, bits=keys.bits)
        else:
            caches[layer] = CodecKVCache(keys, values)
    return caches


def register() -> None:
    """Make attention and prompt-cache files of this process know `CodecKVCache`."""
    install()
    _STOCK.CodecKVCache = CodecKVCache
