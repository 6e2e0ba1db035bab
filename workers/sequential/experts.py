"""What stacked experts read: in the original, and in the model whose layers before are coded.

Tokens are those that the coded model's own router sends to an expert, weighted with how far the
layer's output follows the expert's: a gate's square where outputs are summed with gates. What the
expert would have read of a token in the original is the original's hidden state of that token,
passed through the original's experts. The moments of an expert that saw few tokens are close to the
mean of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from bitbudget.workers.running.taps import Tape, tapped
from bitbudget.workers.sequential.corrected_target import Halves, Moments

__all__ = ["ExpertRows", "Routing", "StackCall", "Stacks", "is_stack", "routing", "watched"]

_POOLED_TOKENS: Final = 0.25
"""Tokens per input that the mean of all experts counts as in the moments of each."""


def is_stack(module: object) -> bool:
    """Whether this is a stack of experts that is called with activations and their experts."""
    if not isinstance(module, (SwitchGLU, SwitchMLP)):
        return False
    return type(module).__call__ in (SwitchGLU.__call__, SwitchMLP.__call__)


@dataclass(frozen=True, slots=True)
class Routing:
    """What a stack is called with: `inputs` (..., in), `experts` and their `weights` (..., k)."""

    inputs: mx.array
    experts: mx.array
    weights: mx.array


@dataclass(slots=True)
class StackCall:
    """The latest call of a stack; `tap` is added to what it returns, of this `shape`."""

    inputs: mx.array = field(default_factory=lambda: mx.zeros(0))
    experts: mx.array = field(default_factory=lambda: mx.zeros(0))
    shape: tuple[int, ...] = ()
    tap: mx.array | None = None


@contextmanager
def watched(stack: nn.Module, seen: StackCall) -> Iterator[None]:
    """Note in `seen` what `stack` is called with, and add its tap to what the stack returns."""
    original: Any = type(stack)

    def call(self: nn.Module, x: mx.array, indices: mx.array) -> mx.array:
        output: mx.array = original.__call__(self, x, indices)
        seen.inputs, seen.experts, seen.shape = x, indices, output.shape
        return output if seen.tap is None else output + seen.tap

    noting = type(original.__name__, (original,), {"__call__": call})
    object.__setattr__(stack, "__class__", noting)
    try:
        yield
    finally:
        object.__setattr__(stack, "__class__", original)


def routing(stack: nn.Module, layer: Callable[[], mx.array], seed: int) -> Routing:
    """Return what `stack` is called with when `layer` runs, and how much each output counts.

    A random cotangent of the layer's output is pulled back to what the stack returns. The weight
    of an expert's output is the ratio of their lengths: where outputs are summed with gates, the
    gate.
    """
    seen = StackCall()

    def through(tap: mx.array) -> mx.array:
        seen.tap = tap
        return layer()

    with watched(stack, seen):
        output = layer()
        cotangent = mx.random.normal(output.shape, key=mx.random.key(seed))
        _, gradients = mx.vjp(through, [mx.zeros(seen.shape)], [cotangent])
    length = mx.linalg.norm(cotangent, axis=-1, keepdims=True)
    weights = mx.linalg.norm(gradients[0], axis=-1).reshape(*output.shape[:-1], -1) / length
    return Routing(seen.inputs, seen.experts, weights)


def _read(
    stack: nn.Module, x: mx.array, experts: mx.array, name: str | None = None
) -> tuple[mx.array, mx.array]:
    """Return the rows that a module of the stack reads, by default the first, and their experts."""
    tape = Tape()
    with tapped(stack, "", tape):
        stack(x, experts)
    position = next(i for i, call in enumerate(tape.calls) if name in (None, call.path))
    call, shape = tape.calls[position], tape.shapes[position]
    assert call.indices is not None  # noqa: S101 - the modules of a stack have them
    width = call.inputs.shape[-1]
    rows = mx.broadcast_to(call.inputs, (*shape[:-1], width)).reshape(-1, width)
    return rows.astype(mx.float32), call.indices.reshape(-1)


@dataclass(frozen=True, slots=True)
class Stacks:
    """A stack of experts in the original and as it is being coded."""

    original: nn.Module
    coded: nn.Module

    def rows(
        self, name: str, original: mx.array, routed: Routing
    ) -> tuple[mx.array, mx.array, np.ndarray]:
        """Return what module `name` reads in both, row by row, and the expert of each row.

        `original` are the inputs (tokens, in) that the original's stack is called with, `routed`
        those of the coded one, whose experts both pass them to. Rows are multiplied by weights.
        """
        chosen = routed.experts.astype(mx.int32)
        rows = (
            _read(self.original, original, chosen, name)[0],
            _read(self.coded, routed.inputs, chosen, name)[0],
        )
        number = mx.arange(len(original), dtype=mx.float32)[:, None]
        order, experts = _read(self.original, mx.broadcast_to(number, original.shape), chosen)
        tokens = order[:, 0].astype(mx.int32)
        place = mx.argmax(chosen[tokens] == experts[:, None], axis=-1)
        weights = routed.weights[tokens, place][:, None]
        found = rows[0] * weights, rows[1] * weights
        mx.eval(found, experts)
        return *found, np.array(experts)


class ExpertRows:
    """What each expert of one module reads, in the original and in the coded model.

    `original` and `coded` (rows, in) are room for all rows, on disk.
    """

    def __init__(self, original: np.ndarray, coded: np.ndarray) -> None:
        self._original, self._coded = original, coded
        self._experts = np.full((2, len(original)), -1, np.int32)
        self._all, self._filled = Halves(original.shape[-1]), 0

    def add(self, half: int, original: mx.array, coded: mx.array, experts: np.ndarray) -> None:
        """Add rows (rows, in) of one half of the tokens, with their experts (rows,)."""
        part = slice(self._filled, self._filled + len(experts))
        self._original[part], self._coded[part] = np.array(original), np.array(coded)
        self._experts[half, part] = experts
        self._all.add_to(half, original, coded)
        self._filled = part.stop

    def moments(self, experts: int) -> Iterator[tuple[Moments, Moments]]:
        """Yield the moments of each expert's inputs, on two halves of the tokens.

        The mean over all experts is added to its own with the weight of a few tokens.
        """
        few = _POOLED_TOKENS * self._original.shape[-1] / 2
        counts = [max(np.count_nonzero(own >= 0), 1) for own in self._experts]
        pairs = zip(self._all.moments(), counts, strict=True)
        first, second = (sums.over(count / few) for sums, count in pairs)
        for expert in range(experts):
            own = self._own(expert)
            yield own[0] + first, own[1] + second

    def _own(self, expert: int) -> tuple[Moments, Moments]:
        halves = Halves(self._original.shape[-1])
        for half, experts in enumerate(self._experts):
            rows = np.flatnonzero(experts == expert)
            if len(rows):
                halves.add_to(half, mx.array(self._original[rows]), mx.array(self._coded[rows]))
        return halves.moments()
