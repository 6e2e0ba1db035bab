"""What a model does with its parts, seen in one lazy forward pass.

MLX knows shapes before it computes anything: the pass builds a graph over two tokens, and the
caches, the experts per token and the tied head are read off it. No weight is read.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx
from mlx import nn

from bitbudget.app.core.inventory import CacheKind, CacheLayer

__all__ = ["Trace", "trace_model"]

_TOKENS: Final = 2
_READER: Final = 2
"""Frames from an observer to the code that reads the attribute."""


@dataclass
class Trace:
    """What one forward pass showed; modules are told apart by identity.

    `experts_per_token` by stacked-expert module, `tied_heads` the embeddings that also served as
    the head, `read_raw` the modules whose weight other code than their own read: packed codes would
    be taken for numbers there. `failure` says why the pass could not be made, if so.
    """

    cache: tuple[CacheLayer, ...] = ()
    experts_per_token: dict[int, int] = field(default_factory=dict)
    tied_heads: set[int] = field(default_factory=set)
    read_raw: set[int] = field(default_factory=set)
    failure: str = ""


def trace_model(model: nn.Module) -> Trace:
    """Run `model` lazily on two tokens and return what was seen; its parameters stay the same."""
    trace = Trace()
    parameters = model.parameters()
    make_prompt_cache = importlib.import_module("mlx_lm.models.cache").make_prompt_cache
    with _observed(trace):
        try:
            caches = make_prompt_cache(model)
            model(mx.zeros((1, _TOKENS), mx.int32), cache=caches)
            trace.cache = tuple(
                layer
                for index, cache in enumerate(caches)
                for layer in _cache_layers(index, cache, _latent_width(model))
            )
        except Exception as error:  # noqa: BLE001, a model may need more than tokens to run
            trace.failure = f"{type(error).__name__}: {error}"[:300]
    model.update(parameters)
    return trace


@contextmanager
def _observed(trace: Trace) -> Iterator[None]:
    switch_layers = importlib.import_module("mlx_lm.models.switch_layers")

    def routed(module: nn.Module, _: mx.array, indices: mx.array, *__: Any, **___: Any) -> None:
        trace.experts_per_token[id(module)] = int(indices.shape[-1])

    def tied(module: nn.Module, *_: Any) -> None:
        trace.tied_heads.add(id(module))

    def read(module: nn.Module, name: str) -> None:
        reader = sys._getframe(_READER).f_locals.get("self")  # noqa: SLF001, no public equal
        if name == "weight" and hasattr(type(module), "to_quantized") and reader is not module:
            trace.read_raw.add(id(module))

    with (
        _before(switch_layers.SwitchLinear, "__call__", routed),
        _before(nn.Embedding, "as_linear", tied),
        _before(nn.Module, "__getattr__", read),
    ):
        yield


@contextmanager
def _before(owner: type, method: str, observe: Callable[..., None]) -> Iterator[None]:
    original = getattr(owner, method)

    def observed(*arguments: Any, **options: Any) -> Any:
        observe(*arguments, **options)
        return original(*arguments, **options)

    setattr(owner, method, observed)
    try:
        yield
    finally:
        setattr(owner, method, original)


def _latent_width(model: nn.Module) -> int:
    """Width of the compressed keys and values of latent attention, 0 when there is none."""
    arguments = getattr(model, "args", None)
    for candidate in (arguments, getattr(arguments, "text_config", None)):
        rank = (
            candidate.get("kv_lora_rank")
            if isinstance(candidate, dict)
            else getattr(candidate, "kv_lora_rank", None)
        )
        if isinstance(rank, int):
            return rank
    return 0


def _cache_layers(layer: int, cache: Any, latent_width: int) -> Iterator[CacheLayer]:
    parts = getattr(cache, "caches", None)
    if parts is not None:
        for part in parts:
            yield from _cache_layers(layer, part, latent_width)
    elif getattr(cache, "keys", None) is not None:
        yield _attention_layer(layer, cache, latent_width)
    else:
        arrays = list(_arrays(getattr(cache, "cache", None) or cache.state))
        nbytes = sum(array.nbytes for array in arrays)
        if nbytes:
            yield CacheLayer(layer, CacheKind.STATE, constant_bytes=nbytes)


def _arrays(state: Any) -> Iterator[mx.array]:
    if isinstance(state, mx.array):
        yield state
    elif isinstance(state, (list, tuple)):
        for item in state:
            yield from _arrays(item)


def _attention_layer(layer: int, cache: Any, latent_width: int) -> CacheLayer:
    """Read a cache with keys of shape (1, heads, tokens, width), values alike or None."""
    stored = [array for array in (cache.keys, cache.values) if array is not None]
    elements = sum(array.shape[1] * array.shape[3] for array in stored)
    width = cache.keys.shape[3]
    window = getattr(cache, "max_size", None) or getattr(cache, "chunk_size", None) or 0
    kind = CacheKind.SLIDING if window else CacheKind.FULL
    if latent_width and cache.keys.shape[1] == 1 and width == latent_width:
        kind = CacheKind.LATENT
    return CacheLayer(
        layer,
        kind,
        elements_per_token=elements,
        bytes_per_token=sum(array.shape[1] * array.shape[3] * array.itemsize for array in stored),
        head_width=width,
        window=int(window),
        value_width=0 if cache.values is None else cache.values.shape[3],
    )
