"""Seeing what goes into a module and which gradient comes back, without knowing the model.

A module's class is replaced by a subclass that records its input and adds a tap, an array of
zeros, to its output: the gradient with respect to the tap is the gradient of the output. Paths,
attributes and `isinstance` stay as they were, so any model code runs unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.switch_layers import SwitchLinear

from bitbudget.app.core.canonical import JsonObject
from bitbudget.rotated_model import RotatedLinear, butterfly
from bitbudget.workers.running.numpy_functions import by_numpy

__all__ = ["Call", "Tape", "backward", "tapped"]


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a module: `inputs` are activations, or token ids of an embedding lookup.

    `indices` are the experts of a stacked module. `is_lookup` marks an embedding read by id.
    """

    path: str
    inputs: mx.array
    indices: mx.array | None = None
    is_lookup: bool = False


@dataclass(slots=True)
class Tape:
    """The calls of one forward pass, in order, and the taps to add to their outputs.

    A linear module whose path is in `held` reads that in place of its input, of as many elements:
    MLX then computes nothing that only the input depends on.
    """

    calls: list[Call] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    taps: Sequence[mx.array] = ()
    direct: dict[str, nn.Module] = field(default_factory=dict)
    held: Mapping[str, mx.array] = field(default_factory=dict)

    def input(self, path: str, x: mx.array) -> mx.array:
        """Return what the module at `path` reads where it is given `x`."""
        return self.held[path].reshape(x.shape) if path in self.held else x

    def rewind(self, taps: Sequence[mx.array]) -> None:
        """Forget the calls; the next pass adds `taps`, none when empty."""
        self.calls, self.shapes, self.taps = [], [], taps

    def record(self, call: Call, output: mx.array) -> mx.array:
        """Note a call and return its output with the tap added."""
        position = len(self.calls)
        self.calls.append(call)
        self.shapes.append(output.shape)
        return output + self.taps[position] if self.taps else output


@contextmanager
def tapped(root: nn.Module, prefix: str, tape: Tape, *, skip: str = "\0") -> Iterator[None]:
    """Record every quantizable module under `root`, whose path is `prefix`, on `tape`.

    Paths that begin with `skip` are left alone.
    Kinds other than linear, embedding and stacked experts (multi-head linear of latent attention,
    linear with a call of its own, ...) go to `tape.direct`: their gradient is taken with respect
    to the weight.
    """
    changed: list[tuple[nn.Module, type]] = []
    for name, module in root.named_modules():
        path = ".".join(part for part in (prefix, name) if part)
        if not hasattr(module, "to_quantized") or path.startswith(skip):
            continue
        methods = _methods(module, path, tape)
        if methods is None:
            tape.direct[path] = module
            continue
        changed.append((module, type(module)))
        object.__setattr__(
            module, "__class__", type(type(module).__name__, (type(module),), methods)
        )
    try:
        yield
    finally:
        for module, original in changed:
            object.__setattr__(module, "__class__", original)


def _methods(module: nn.Module, path: str, tape: Tape) -> JsonObject | None:
    forward: Callable[..., mx.array] = type(module).__call__
    if isinstance(module, nn.Embedding):
        as_linear: Callable[..., mx.array] = type(module).as_linear

        def look_up(self: nn.Module, ids: mx.array) -> mx.array:
            return tape.record(Call(path, ids, is_lookup=True), forward(self, ids))

        def project(self: nn.Module, x: mx.array) -> mx.array:
            return tape.record(Call(path, x), as_linear(self, x))

        return {"__call__": look_up, "as_linear": project}
    if isinstance(module, SwitchLinear):

        def route(self: nn.Module, x: mx.array, indices: mx.array, **options: Any) -> mx.array:
            return tape.record(Call(path, x, indices), forward(self, x, indices, **options))

        return {"__call__": route}
    if forward is RotatedLinear.__call__:

        def turn(self: nn.Module, x: mx.array) -> mx.array:
            turned = tape.input(path, butterfly(x))
            return tape.record(Call(path, turned), nn.Linear.__call__(self, turned))  # type: ignore[arg-type]

        return {"__call__": turn}
    if forward is nn.Linear.__call__:

        def apply(self: nn.Module, x: mx.array) -> mx.array:
            x = tape.input(path, x)
            return tape.record(Call(path, x), forward(self, x))

        return {"__call__": apply}
    return None


@dataclass(frozen=True, slots=True)
class Gradients:
    """What a backward pass gave: per call its output gradient, and gradients of direct weights."""

    carried: mx.array
    calls: Sequence[tuple[Call, mx.array]]
    direct: dict[str, mx.array]


def backward(
    function: Callable[[mx.array], mx.array], carried: mx.array, cotangent: mx.array, tape: Tape
) -> Gradients:
    """Pull `cotangent` back through `function`, whose modules record on `tape`.

    The first, unevaluated call only tells how many taps there are and their shapes.
    """
    tape.rewind(())
    function(carried)
    taps = [mx.zeros(shape) for shape in tape.shapes]
    weights = [module.weight for module in tape.direct.values()]

    def tapped_function(h: mx.array, *primals: mx.array) -> mx.array:
        tape.rewind(primals[: len(taps)])
        for module, weight in zip(tape.direct.values(), primals[len(taps) :], strict=True):
            module.weight = weight
        return function(h)

    with by_numpy():
        _, gradients = mx.vjp(tapped_function, [carried, *taps, *weights], [cotangent])
    for module, weight in zip(tape.direct.values(), weights, strict=True):
        module.weight = weight
    after = 1 + len(taps)
    calls = list(zip(tape.calls, gradients[1:after], strict=True))
    direct = dict(zip(tape.direct, gradients[after:], strict=True))
    tape.rewind(())
    return Gradients(gradients[0], calls, direct)
