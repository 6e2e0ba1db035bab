"""What a model computes, with one layer's weights in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from bitbudget.app.core.canonical import JsonObject
from bitbudget.workers.running.layer_calls import (
    LayerCall,
    decoder_layers,
    layer_calls,
    replaced_layers,
)

__all__ = ["Load", "Logits", "Tokens", "Wrap", "logits_of"]

Tokens = np.ndarray[Any, np.dtype[np.int32]]
Logits = list[np.ndarray[Any, np.dtype[np.float32]]]
Load = Callable[[], nn.Module]
"""Gives a fresh copy of the model, nothing of it evaluated."""
Wrap = Callable[[nn.Module], nn.Module]


def logits_of(
    load: Load, tokens: Tokens, norms: Sequence[str] = (), wrap: Wrap | None = None
) -> Logits:
    """Return float32 logits (length, vocabulary) of each row of `tokens`.

    The norms at the paths `norms` are replaced by what `wrap` makes of them. Models whose layers
    form no chain are evaluated whole.
    """

    def wrapped(root: nn.Module, paths: Sequence[str], prefix: str = "") -> nn.Module:
        for path in paths if wrap else ():
            parent, name = _parent(root, path.removeprefix(prefix))
            parent[name] = wrap(parent[name])  # type: ignore[misc]
        return root

    rows = [mx.array(row)[None] for row in tokens]
    calls = _calls(load, rows)
    if calls is None:
        model = wrapped(load(), norms)
        return [_array(model(row)) for row in rows]
    hidden = [row[0].hidden for row in calls]
    mx.eval(hidden)
    for index in range(len(calls[0])):
        prefix, layers = decoder_layers(load())
        within = f"{prefix}.{index}."
        layer = wrapped(layers[index], [n for n in norms if n.startswith(within)], within)
        hidden = [row[index].apply(layer, h) for row, h in zip(calls, hidden, strict=True)]
        mx.eval(hidden)
        del layers, layer
        mx.clear_cache()
    outside = [norm for norm in norms if not norm.startswith(f"{prefix}.")]
    return _heads(wrapped(load(), outside), rows, hidden)


def _parent(root: nn.Module, path: str) -> tuple[Any, str]:
    module: Any = root
    *parts, name = path.split(".")
    for part in parts:
        module = module[int(part)] if isinstance(module, list) else module[part]
    return module, name


def _calls(load: Load, rows: list[mx.array]) -> list[list[LayerCall]] | None:
    """Return how the layers are called for each row, the first hidden state evaluated."""
    model = load()
    _, layers = decoder_layers(model)
    if not layers:
        return None
    found = []
    for row in rows:
        calls = layer_calls(model, layers, row)
        if calls is None:
            return None
        mx.eval(calls[0].hidden)
        found.append(calls)
    return found


def _heads(model: nn.Module, rows: list[mx.array], hidden: list[mx.array]) -> Logits:
    """Return the logits of the last layer's output: final norm and head alone are read."""
    layers = decoder_layers(model)[1]
    found = []
    for row, last in zip(rows, hidden, strict=True):

        def stub(
            index: int,
            arguments: tuple[Any, ...],
            options: JsonObject,
            last: mx.array = last,
        ) -> mx.array:
            return last if index == len(layers) - 1 else LayerCall.of(arguments, options).hidden

        with replaced_layers(layers, stub):
            found.append(_array(model(row)))
    return found


def _array(logits: mx.array) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(logits[0].astype(mx.float32))
