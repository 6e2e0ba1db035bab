"""Running models that do not fit in memory: weights are read for a pass and not kept after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import mlx.core as mx
import psutil
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from bitbudget.workers.native.memory import return_freed_memory
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.layer_calls import decoder_layers
from bitbudget.workers.running.numpy_functions import as_stock

__all__ = [
    "Forward",
    "Unheld",
    "Weight",
    "empty_cache",
    "fits_whole",
    "open_forward",
    "open_writer",
    "streamed_logits",
]

_SHARE = 2
"""One in this many bytes of memory is for models; the rest is for everything else."""
_WRITER_BITS, _WRITER_GROUP = 4, 64
_WRITER_BYTES_PER_WEIGHT = 5 / 8
"""Codes of 4 bits, and a float32 scale and bias for 64 of them."""

Weight = Callable[[], mx.array]
"""Makes a module's float32 weight."""


class Forward(Protocol):
    """Anything that maps token ids (sequences, length) to logits (sequences, length, tokens)."""

    def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
        """Return the logits, with `cache` as mlx-lm's models take it."""
        ...


@dataclass(frozen=True, slots=True)
class Unheld:
    """The model in `folder`, whose weights are read anew by every call and dropped within it.

    MLX frees an array that nothing refers to as soon as it was used, so that a call holds about
    the largest modules, the activations and the logits.
    """

    folder: Path
    dtype: mx.Dtype = mx.float32

    def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
        """Return the logits, evaluated."""
        return streamed_logits(self._load, ids, cache)

    def _load(self) -> nn.Module:
        model = load_float32(self.folder)
        model.set_dtype(self.dtype)
        return model

    def make_cache(self) -> list[Any]:
        """Return an empty KV cache, as mlx-lm's `make_prompt_cache` asks for it."""
        return empty_cache(load_float32(self.folder))


def streamed_logits(
    load: Callable[[], nn.Module],
    ids: mx.array,
    cache: Any = None,
    replaced: Mapping[str, Weight] = MappingProxyType({}),
) -> mx.array:
    """Return the logits of the lazy model that `load` gives, evaluated; no weight is kept.

    A layer's weights are dropped once it was called, those of a model without a list of layers as
    MLX uses them. Weights of the modules at the paths `replaced` are made in their place, those
    within a layer when it is called.
    """
    model = load()
    prefix, layers = decoder_layers(model)
    outside = dict(replaced)
    for index, layer in enumerate(layers):
        place = f"{prefix}.{index}."
        within = {p.removeprefix(place): outside.pop(p) for p in replaced if p.startswith(place)}
        _drop_after_call(layer, partial(_layer, load, index), within)
    _replace(model, outside)
    with nullcontext() if layers else as_stock():
        logits: mx.array = model(ids, cache=cache)
    del model, layers
    mx.eval(logits, [entry.state for entry in cache or ()])
    return logits


def _layer(load: Callable[[], nn.Module], index: int) -> nn.Module:
    return decoder_layers(load())[1][index]


def _replace(module: nn.Module, weights: Mapping[str, Weight]) -> None:
    module.load_weights([(f"{p}.weight", make()) for p, make in weights.items()], strict=False)


def _drop_after_call(
    layer: nn.Module, read: Callable[[], nn.Module], replaced: Mapping[str, Weight]
) -> None:
    """Let `layer` take the `replaced` weights when it is called, and then lose all it has.

    Called again it is `read` again.
    """
    original: Any = type(layer)

    def call(layer: nn.Module, *arguments: Any, **options: Any) -> Any:
        whole = layer or read()  # a module without arrays and parts is false
        _replace(whole, replaced)
        output = original.__call__(whole, *arguments, **options)
        layer.clear()
        return output

    object.__setattr__(layer, "__class__", type(original.__name__, (original,), {"__call__": call}))


def fits_whole(folder: Path, *, copies: int = 1, memory_bytes: int | None = None) -> bool:
    """Whether `copies` of the model in `folder` in float32 fit in half of the memory."""
    return _fits(load_float32(folder), copies, _room(memory_bytes))


def open_forward(
    folder: Path,
    *,
    copies: int = 1,
    dtype: mx.Dtype = mx.float32,
    memory_bytes: int | None = None,
) -> Forward:
    """Return the float32 model in `folder`, whole where `copies` of it fit in half of the memory.

    `memory_bytes` is by default this machine's. A model that does not fit is read at every call.
    """
    return_freed_memory()
    model = load_float32(folder)
    if not _fits(model, copies, _room(memory_bytes)):
        return Unheld(folder, dtype)
    model.set_dtype(dtype)
    found: Forward = model
    return found


def open_writer(folder: Path, *, memory_bytes: int | None = None) -> Forward:
    """Return what writes the text of the model in `folder`, a token at a time.

    Every token needs every weight: a model that does not fit in half of the memory is read for
    each, unless a 4-bit copy of it fits. That one's text is not quite the model's.
    """
    return_freed_memory()
    model, room = load_float32(folder), _room(memory_bytes)
    if not _fits(model, 1, room):
        if _float32_bytes(model) / 4 * _WRITER_BYTES_PER_WEIGHT > room:
            return Unheld(folder)
        _quantize(model)
    found: Forward = model
    return found


def empty_cache(model: Forward) -> list[Any]:
    """Return a KV cache for `model` with nothing in it."""
    whole: Any = model
    cache: list[Any] = make_prompt_cache(whole)
    return cache


def _fits(model: nn.Module, copies: int, room: int) -> bool:
    return copies * _float32_bytes(model) <= room


def _room(memory_bytes: int | None) -> int:
    return (memory_bytes or int(psutil.virtual_memory().total)) // _SHARE


def _quantize(model: nn.Module) -> None:
    """Round to 4 bits what can be, holding the source of one module at a time."""
    nn.quantize(
        model,
        _WRITER_GROUP,
        _WRITER_BITS,
        class_predicate=lambda _, module: (
            hasattr(module, "to_quantized") and module.weight.shape[-1] % _WRITER_GROUP == 0
        ),
    )
    for _, module in model.named_modules():
        if "scales" in module:
            mx.eval(module.parameters())


def _float32_bytes(model: nn.Module) -> int:
    arrays: Any = tree_flatten(model.parameters())
    return sum(4 * array.size for _, array in arrays)
