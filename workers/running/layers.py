"""A model's decoder walked layer by layer, with one layer's weights in memory at a time."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.running.layer_calls import (
    LayerCall,
    decoder_layers,
    layer_calls,
    replaced_layers,
)

__all__ = ["Walk", "first_hidden", "logits_of", "module_paths"]

_BATCH_ELEMENTS: Final = 1 << 24
"""Elements of the widest activation of a batch (64 MiB in float32)."""
_MOST_SEQUENCES: Final = 8


class _ReachedError(Exception):
    """The first layer was reached, the rest of the model is not needed."""


class Walk:
    """The layers of one model on one text: `load` gives a fresh lazy copy each time.

    `options` are what the model is called with besides token ids. `batches` are the sequences that
    a layer is given at once, `head_batches` fewer, for whose logits there is room as well.
    """

    def __init__(self, load: Callable[[], nn.Module], tokens: np.ndarray) -> None:
        self.load, self.tokens = load, tokens
        self.model = load()
        self.prefix, self.layers = decoder_layers(self.model)
        self.batches = _batches(self.layers or [self.model], tokens)
        self.head_batches = _batches([self.model], tokens)
        self.options: JsonObject = {}
        self._calls: dict[int, list[LayerCall]] = {}
        self._unread: defaultdict[int, list[nn.Module]] = defaultdict(list)

    def is_chain(self) -> bool:
        """Whether each layer takes exactly what the one before it gave."""
        if not self.layers:
            return False
        ids = self.ids(self.batches[0])
        return layer_calls(self.model, self.layers, ids, **self.options) is not None

    def ids(self, batch: slice) -> mx.array:
        """Return the token ids of a batch."""
        return mx.array(self.tokens[batch])

    def call(self, number: int, index: int) -> LayerCall:
        """Return how layer `index` is called for batch `number`, without its hidden state."""
        if number not in self._calls:
            ids = self.ids(self.batches[number])
            calls = layer_calls(self.model, self.layers, ids, **self.options)
            if calls is None:
                raise InvalidModelError(
                    where=f"batch {number} of the statistics pass",
                    found="layers called differently than for the first batch",
                    expected="the same chain of layers for every batch",
                    remedy="measure with --sensitivity weights",
                )
            self._calls[number] = [call.without_hidden() for call in calls]
        return self._calls[number][index]

    def layer_alone(self, index: int) -> nn.Module:
        """Return layer `index` with its own unread weights: they are freed with it.

        A copy of the model gives each of its layers once.
        """
        if not self._unread[index]:
            for number, layer in enumerate(decoder_layers(self.load())[1]):
                self._unread[number].append(layer)
        return self._unread[index].pop()

    def first_hidden(self, ids: mx.array) -> mx.array:
        """Return what the first layer is given for `ids`."""
        return first_hidden(self.model, self.layers, ids)


def first_hidden(model: nn.Module, layers: list[nn.Module], ids: mx.array) -> mx.array:
    """Return what the first of the layers of `model` is given for `ids`."""
    reached: list[mx.array] = []

    def stub(_: int, arguments: tuple[Any, ...], options: JsonObject) -> mx.array:
        call = LayerCall.of(arguments, options)
        reached.append(call.hidden)
        raise _ReachedError

    with replaced_layers(layers, stub), contextlib.suppress(_ReachedError):
        model(ids)
    return reached[0]


def logits_of(
    model: nn.Module, layers: list[nn.Module], ids: mx.array, hidden: mx.array
) -> mx.array:
    """Return the logits of `model` for `ids` where the last of its layers returns `hidden`."""
    last = len(layers) - 1

    def stub(index: int, arguments: tuple[Any, ...], options: JsonObject) -> mx.array:
        return hidden if index == last else LayerCall.of(arguments, options).hidden

    with replaced_layers(layers, stub):
        logits: mx.array = model(ids)
    return logits


def _batches(parts: list[nn.Module], tokens: np.ndarray) -> list[slice]:
    """Return as many sequences at once as the widest output of any of the `parts` allows."""
    widest = max(
        (
            module.weight.shape[-2]
            for part in parts
            for module in part.modules()
            if hasattr(module, "to_quantized")
        ),
        default=1,
    )
    rows = max(1, min(_MOST_SEQUENCES, _BATCH_ELEMENTS // (widest * tokens.shape[1])))
    return [slice(start, start + rows) for start in range(0, len(tokens), rows)]


def module_paths(root: nn.Module, prefix: str) -> dict[str, nn.Module]:
    """Return the modules under `root`, whose own path is `prefix`, by path."""
    named = root.named_modules()
    return {".".join(part for part in (prefix, name) if part): module for name, module in named}
