"""The KV caches that an allocation chose, layer by layer, for mlx-lm's models.

Caches of affine codes alone are mlx-lm's own `QuantizedKVCache` under `stock`: its attention asks
each layer's cache for its bits and group size, so a list with one cache per layer is served by
stock code. `CodecKVCache` takes any two codecs, and its attention holds no scores of the context.
"""

from __future__ import annotations

import importlib
from typing import Any, Final, Self

import mlx.core as mx
from mlx.utils import tree_reduce

from bitbudget.kv.attention import Stored, install
from bitbudget.kv.codecs import AffineCodec, Arrays, Codec, PlainCodec, parse_codec
from bitbudget.kv.manifest import ChosenCaches

__all__ = [
    "CodecKVCache",
    "make_cache",
    "own_caches",
    "register",
]

_STOCK: Final[Any] = importlib.import_module("mlx_lm.models.cache")


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
        keys, values = (Stored(arrays or (), codec, self.offset) for arrays, codec in stored)
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
        self.keys = _checked(keys, self.key_codec)
        self.values = _checked(values, self.value_codec)

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Return the cache of a saved `state`.

        ValueError for a codec of another version, and for arrays that are not their codec's.
        """
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


def _checked(arrays: Any, codec: Codec) -> Arrays | None:
    if arrays is None:
        return None
    found = tuple(arrays)
    if not codec.fits(found):
        shapes = ", ".join(f"{x.dtype} {tuple(x.shape)}" for x in found)
        msg = f"KV codec {codec.name} did not store arrays of {shapes}: make the prompt cache again"
        raise ValueError(msg)
    return found


def make_cache(model: Any, chosen: ChosenCaches) -> list[Any]:
    """Return the model's own caches, quantized where `chosen` says so.

    Pass it as `prompt_cache` to `mlx_lm.generate` or `stream_generate`, without `kv_bits`.
    """
    register()
    caches = own_caches(model)
    for layer, (keys, values) in chosen.codecs.items():
        if isinstance(keys, PlainCodec) and isinstance(values, PlainCodec):
            continue
        if chosen.is_stock and isinstance(keys, AffineCodec) and keys == values:
            caches[layer] = _STOCK.QuantizedKVCache(group_size=keys.group_size, bits=keys.bits)
        else:
            caches[layer] = CodecKVCache(keys, values)
    return caches


def own_caches(model: Any) -> list[Any]:
    """Return the caches of the model's class, whatever was chosen for the model."""
    stock = type(model).make_cache if hasattr(type(model), "make_cache") else None
    return list(stock(model)) if stock else [_STOCK.KVCache() for _ in model.layers]


def register() -> None:
    """Make attention and prompt-cache files of this process know `CodecKVCache`."""
    install()
    _STOCK.CodecKVCache = CodecKVCache
