"""The decoder as a list of layers: what each was called with, and whether they form a chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

from bitbudget.app.core.canonical import JsonObject
from bitbudget.workers.running.numpy_functions import as_stock

__all__ = [
    "LayerCall",
    "decoder_layers",
    "layer_calls",
    "observed_layers",
    "replaced_layers",
]

_Stub = Callable[[int, tuple[Any, ...], JsonObject], Any]


@dataclass(frozen=True, slots=True)
class LayerCall:
    """The arguments one layer was called with; `carried` says which one is the hidden state."""

    arguments: tuple[Any, ...]
    options: JsonObject
    carried: int | str

    @classmethod
    def of(cls, arguments: tuple[Any, ...], options: JsonObject) -> LayerCall:
        """Return a call whose hidden state is its first activation (batch, length, ...)."""
        carried = _carried(arguments, options, None)
        if carried is None:
            raise TypeError("a layer was called without an activation")
        return cls(arguments, options, carried)

    def without_hidden(self) -> LayerCall:
        """Return the call with the hidden state's place empty, so that it holds no activation."""
        arguments, options = list(self.arguments), dict(self.options)
        if isinstance(self.carried, str):
            options[self.carried] = None
        else:
            arguments[self.carried] = None
        return LayerCall(tuple(arguments), options, self.carried)

    @property
    def hidden(self) -> mx.array:
        """The hidden state it was given."""
        value: mx.array = (
            self.options[self.carried]
            if isinstance(self.carried, str)
            else self.arguments[self.carried]
        )
        return value

    def apply(self, layer: nn.Module, hidden: mx.array) -> mx.array:
        """Call `layer` as it was called, with another hidden state, and return the next."""
        return _hidden_of(self.answer(layer, hidden))

    def answer(self, layer: Callable[..., Any], hidden: mx.array) -> Any:
        """Return all that `layer` returns for another hidden state."""
        arguments, options = list(self.arguments), dict(self.options)
        if isinstance(self.carried, str):
            options[self.carried] = hidden
        else:
            arguments[self.carried] = hidden
        return layer(*arguments, **options)


def decoder_layers(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """Return the path prefix of the decoder's list (`model.layers`) and its layers."""
    layers = [layer for layer in getattr(model, "layers", []) if isinstance(layer, nn.Module)]
    if not layers:
        return "", []
    for path, module in model.named_modules():
        if module is layers[0]:
            return path.rsplit(".", 1)[0], layers
    return "", []


@contextmanager
def replaced_layers(layers: list[nn.Module], stub: _Stub) -> Iterator[None]:
    """Let `stub(index, arguments, options)` give the hidden state for every layer's call.

    A layer that returns more than its hidden state gets NaN for the rest. What it returns is seen
    from a call of its own on NaN, of which nothing is computed: MLX knows shapes without.
    """
    originals: list[Any] = [type(layer) for layer in layers]

    def stubbed(index: int, original: Any) -> type:
        def call(layer: nn.Module, *arguments: Any, **options: Any) -> Any:
            hidden = stub(index, arguments, options)
            made = LayerCall.of(arguments, options)
            blank = mx.full(made.hidden.shape, mx.nan, made.hidden.dtype)
            with as_stock():
                answer = made.answer(partial(original.__call__, layer), blank)
            return _with_hidden(answer, hidden)

        return type(original.__name__, (original,), {"__call__": call})

    for index, (layer, original) in enumerate(zip(layers, originals, strict=True)):
        object.__setattr__(layer, "__class__", stubbed(index, original))
    try:
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            object.__setattr__(layer, "__class__", original)


@contextmanager
def observed_layers(
    layers: list[nn.Module], see: Callable[[int, mx.array, mx.array], None]
) -> Iterator[None]:
    """Tell `see` each layer's number, the hidden state it is given and the one it returns.

    Not of a layer that is given none, or returns none.
    """
    originals: list[Any] = [type(layer) for layer in layers]

    def observed(index: int, original: Any) -> type:
        def call(layer: nn.Module, *arguments: Any, **options: Any) -> Any:
            output = original.__call__(layer, *arguments, **options)
            with suppress(TypeError):
                see(index, LayerCall.of(arguments, options).hidden, _hidden_of(output))
            return output

        return type(original.__name__, (original,), {"__call__": call})

    for index, (layer, original) in enumerate(zip(layers, originals, strict=True)):
        object.__setattr__(layer, "__class__", observed(index, original))
    try:
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            object.__setattr__(layer, "__class__", original)


def layer_calls(
    model: nn.Module, layers: list[nn.Module], ids: mx.array, **options: Any
) -> list[LayerCall] | None:
    """Return how `model(ids, **options)` calls its layers, None when they are no simple chain.

    A chain: every layer is called once, in order, each with the very array (sequences, length, ...)
    that the one before it returned, and with no other array that came from a layer. Each stub
    answers with NaN, so that anything computed from a layer's output is recognised; a layer that
    reads what another left behind fails.
    """
    calls: list[LayerCall] = []
    passed: list[mx.array] = []
    in_order = True

    def stub(index: int, arguments: tuple[Any, ...], options: JsonObject) -> mx.array:
        nonlocal in_order
        carried = _carried(arguments, options, passed[-1] if passed else None)
        if carried is None or index != len(calls):
            in_order = False
            passed.append(mx.full(ids.shape, mx.nan))
            return passed[-1]
        calls.append(LayerCall(arguments, options, carried))
        in_order = in_order and calls[-1].hidden.shape[: ids.ndim] == ids.shape
        passed.append(mx.full(calls[-1].hidden.shape, mx.nan))
        return passed[-1]

    with replaced_layers(layers, stub):
        try:
            model(ids, **options)
        except (TypeError, ValueError, IndexError, AttributeError):
            return None
    if not in_order or len(calls) != len(layers) or any(map(_depends_on_layers, calls)):
        return None
    return calls


def _hidden_of(output: Any) -> mx.array:
    """Return the hidden state of what a layer returned: all of it, or its first activation."""
    if isinstance(output, mx.array):
        return output
    found = next(filter(_is_hidden, _arrays(output)), None)
    if found is None:
        raise TypeError("a layer returned no activation")
    return found


def _with_hidden(output: Any, hidden: mx.array) -> Any:
    """Return `output` with `hidden` in its place and every other floating array NaN."""
    if isinstance(output, mx.array):
        return hidden
    place = _hidden_of(output)

    def filled(value: Any) -> Any:
        if value is place:
            return hidden
        if isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating):
            return mx.full(value.shape, mx.nan, value.dtype)
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(filled(item) for item in value)
        return value

    return filled(output)


def _carried(
    arguments: tuple[Any, ...], options: JsonObject, expected: mx.array | None
) -> int | str | None:
    named: list[tuple[int | str, Any]] = [*enumerate(arguments), *options.items()]
    for name, value in named:
        if expected is None:
            if _is_hidden(value):
                return name
        elif value is expected:
            return name
    return None


def _is_hidden(value: Any) -> bool:
    rank = 3
    return (
        isinstance(value, mx.array)
        and value.ndim >= rank
        and mx.issubdtype(value.dtype, mx.floating)
    )


def _depends_on_layers(call: LayerCall) -> bool:
    for name, value in (*enumerate(call.arguments), *call.options.items()):
        if name != call.carried and any(bool(mx.isnan(array).any()) for array in _arrays(value)):
            return True
    return False


def _arrays(value: Any) -> list[mx.array]:
    """Return the floating arrays in a nest of tuples, lists and dictionaries."""
    if isinstance(value, mx.array):
        return [value] if mx.issubdtype(value.dtype, mx.floating) else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in _arrays(item)]
    return []
