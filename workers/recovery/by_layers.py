"""The gradient of a student's loss with one layer's dequantized weights in memory at a time.

The forward pass keeps what enters each layer. The backward pass runs every layer once more, reads
its codes once more, and hands the gradient of its input to the layer below.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from bitbudget.workers.recovery.divergence import cross_entropy
from bitbudget.workers.recovery.student import Opened, Student, Values
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.layer_calls import LayerCall, decoder_layers, layer_calls
from bitbudget.workers.running.layers import Walk, first_hidden, logits_of
from bitbudget.workers.running.numpy_functions import by_numpy
from bitbudget.workers.running.streaming_forward import fits_whole, streamed_logits

__all__ = ["StreamedStudent", "has_room", "layer_gradients", "streams"]

_COPIES = 3
"""What training in memory holds: the original, the student, and weights on their way to it."""


def has_room(reference: Path) -> bool:
    """Whether half of the memory holds a model three times over, as training it whole needs."""
    return fits_whole(reference, copies=_COPIES)


def streams(checkpoint: Path, reference: Path) -> bool:
    """Whether a model is trained layer by layer, since there is no room for it whole.

    Only models whose layers form a chain can be.
    """
    if has_room(reference):
        return False
    return Walk(lambda: load_float32(checkpoint), np.zeros((1, 8), np.int32)).is_chain()


@dataclass(frozen=True, slots=True)
class StreamedStudent:
    """A student with some values as a model: weights are made anew by every call."""

    student: Student
    values: Values

    def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
        """Return the logits of `ids` (sequences, length), with parameters as stored."""
        return streamed_logits(lambda: self.student.apply(self.values, stored=True), ids, cache)


def layer_gradients(student: Student, values: Values, ids: mx.array, target: mx.array) -> Values:
    """Return the gradient of `cross_entropy` with respect to `values`, evaluated.

    `ids` are (sequences, length), `target` probabilities (sequences, length, vocabulary).
    """
    with by_numpy():
        hidden, calls = _forward(student, values, ids)
        return _Backward(student, values, ids, target).run(hidden, calls)


def _forward(
    student: Student, values: Values, ids: mx.array
) -> tuple[list[mx.array], list[LayerCall]]:
    """Return what enters each layer and leaves the last, and how layers are called."""
    model = student.apply(values)
    layers = decoder_layers(model)[1]
    calls = layer_calls(model, layers, ids)
    if calls is None:
        raise ValueError("the layers of the model form no chain")
    hidden = [calls[0].hidden]
    calls = [call.without_hidden() for call in calls]
    for layer, call in zip(layers, calls, strict=True):
        hidden.append(call.apply(layer, hidden[-1]))
        mx.eval(hidden[-1])
        layer.clear()
    return hidden, calls


class _Backward:
    """One backward pass from the loss to the embedding."""

    def __init__(self, student: Student, values: Values, ids: mx.array, target: mx.array) -> None:
        self.student, self.values, self.ids, self.target = student, values, ids, target
        self.opened: Opened = student.open()
        self.prefix, self.layers = decoder_layers(self.opened.model)
        self.found: Values = {kind: {} for kind in values}

    def run(self, hidden: list[mx.array], calls: list[LayerCall]) -> Values:
        outside = self._within(f"{self.prefix}.", inside=False)
        above = self._take(mx.grad(self._tail, argnums=(0, 1))(hidden.pop(), outside))
        for index in reversed(range(len(self.layers))):
            layer, call, pulled = self.layers[index], calls[index], above

            def through(h: mx.array, part: Values) -> mx.array:
                self.student.put(self.opened, part)
                return (call.apply(layer, h) * pulled).sum()  # noqa: B023 - called at once

            part = self._within(own := f"{self.prefix}.{index}.")
            above = self._take(mx.grad(through, argnums=(0, 1))(hidden.pop(), part))
            layer.clear()
            self.opened.drop(own)
        self._take((above, mx.grad(self._lookup)(outside, above)))
        return self.found

    def _tail(self, hidden: mx.array, part: Values) -> mx.array:
        self.student.put(self.opened, part)
        logits = logits_of(self.opened.model, self.layers, self.ids, hidden)
        loss: Any = cross_entropy(logits, self.target)
        return loss  # type: ignore[no-any-return]

    def _lookup(self, part: Values, above: mx.array) -> mx.array:
        self.student.put(self.opened, part)
        return (first_hidden(self.opened.model, self.layers, self.ids) * above).sum()

    def _within(self, prefix: str, *, inside: bool = True) -> Values:
        """Return the values of what has `prefix`, or of all else."""
        return {
            kind: {name: a for name, a in part.items() if name.startswith(prefix) is inside}
            for kind, part in self.values.items()
        }

    def _take(self, pulled: tuple[mx.array, Values]) -> mx.array:
        """Add gradients, which a tied embedding has twice, and return that of the hidden state."""
        above, gradient = pulled
        mx.eval(above, gradient)
        for kind, part in gradient.items():
            found = self.found[kind]
            found.update(
                {n: found[n] + array if n in found else array for n, array in part.items()}
            )
        return above
