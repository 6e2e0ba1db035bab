"""Source tensors renamed, merged and stacked by the model's own `sanitize`, with their origins.

A weight that `sanitize` hands through is the very object that went in, and stacked experts come
from `mx.stack`: both are recognised by identity, so that weights can be streamed from the file
without MLX. An object changed in place (Falcon-H1 scales its weights so) is noticed, too.
Everything else is left to MLX's lazy evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from bitbudget.workers.files.layouts import SCALE

__all__ = ["Sanitized", "decoded_first", "sanitize", "without_buffers"]


@dataclass(frozen=True, slots=True)
class Sanitized:
    """Weights as the model names them; `origins` gives the source tensors a weight is made of.

    One name is the tensor itself, several are stacked along a new first axis, None is anything
    else. `stacked` has the parts of those others that are stacks of computed arrays, such as
    experts decoded from 8-bit floats: they can be evaluated one by one.
    """

    weights: dict[str, mx.array]
    origins: dict[str, tuple[str, ...] | None]
    stacked: dict[str, list[mx.array]] = field(default_factory=dict)


def sanitize(
    model: nn.Module, source: Mapping[str, mx.array], float8: Collection[str] = ()
) -> Sanitized:
    """Pass `source`, lazily loaded arrays by name, through `model.sanitize`; nothing is read.

    `float8` names the 8-bit floats among them, see `decoded_first`.
    """
    transform = getattr(model, "sanitize", None)
    if transform is None:
        return Sanitized(dict(source), {name: (name,) for name in source})
    ready = decoded_first(transform, source, float8)
    return _sanitized(transform, {**source, **ready}, ready)


_BUFFERS: Final = re.compile(
    r"(?:^|\.)(?:vision_tower|vision_model|visual|multi_modal_projector|mtp)\..*"
    r"|(?:^|\.)(?:rotary_emb\.inv_freq|attn\.(?:masked_)?bias|attention\.(?:masked_)?bias"
    r"|lm_head\.weight|position_ids|rotary_emb\.(?:cos|sin)_cached)$"
)


def without_buffers(known: Sanitized, model: nn.Module) -> Sanitized:
    """Leave out what files hold beside parameters: rotary frequencies, causal masks, a tied head.

    mlx-lm computes them anew; not every class drops every one that was once saved.
    """
    odd = [name for name in known.weights if _BUFFERS.search(name)]
    if not odd:
        return known
    own: Collection[str] = dict(tree_flatten(model.parameters()))
    for name in set(odd) - set(own):
        del known.weights[name]
        known.origins.pop(name, None)
        known.stacked.pop(name, None)
    return known


def decoded_first(
    transform: Callable[[dict[str, mx.array]], dict[str, mx.array]],
    source: Mapping[str, mx.array],
    float8: Collection[str],
) -> dict[str, mx.array]:
    """Return what has to be decoded, lazily, before a class's own `transform` sees it.

    MLX loads 8-bit floats, E4M3 under the names `float8`, as their codes. Most classes of mlx-lm
    that have a use for their scales decode them, but some only multiply the two.
    """
    scaled = [name for name in float8 if f"{name}{SCALE}" in source]
    if not scaled:
        return {}
    with _recorded_decoding() as decoded:
        names = set(transform(dict(source)))
    if decoded or any(name.endswith(SCALE) for name in names):
        return {}
    return {name: mx.from_fp8(source[name], dtype=mx.bfloat16) for name in scaled}


def _sanitized(
    transform: Callable[[dict[str, mx.array]], dict[str, mx.array]],
    source: Mapping[str, mx.array],
    ready: Collection[str],
) -> Sanitized:
    """Record what `transform` does; sources that are `ready` are not what the files hold."""
    with _recorded_stacks() as stacks, _recorded_changes() as changed:
        weights = transform(dict(source))
    names = {
        id(array): name
        for name, array in source.items()
        if id(array) not in changed and name not in ready
    }
    stacks = {key: stack for key, stack in stacks.items() if key not in changed}
    origins = {name: _origin(array, names, stacks) for name, array in weights.items()}
    stacked = {
        name: list(stacks[id(array)].inputs)
        for name, array in weights.items()
        if origins[name] is None and id(array) in stacks
    }
    return Sanitized(weights, origins, stacked)


@contextmanager
def _recorded_decoding() -> Iterator[list[mx.array]]:
    """Collect what is decoded from 8-bit floats."""
    decoded: list[mx.array] = []
    original = mx.from_fp8

    def from_fp8(array: mx.array, *arguments: Any, **options: Any) -> mx.array:
        decoded.append(array)
        return original(array, *arguments, **options)

    mx.from_fp8 = from_fp8  # type: ignore[assignment]
    try:
        yield decoded
    finally:
        mx.from_fp8 = original


@dataclass(frozen=True, slots=True)
class _Stack:
    """A call of `mx.stack`; holding the arrays keeps their identities from being used again."""

    output: mx.array
    inputs: tuple[mx.array, ...]


@contextmanager
def _recorded_stacks() -> Iterator[dict[int, _Stack]]:
    stacks: dict[int, _Stack] = {}
    original = mx.stack

    def stack(arrays: list[mx.array], axis: int = 0, **options: Any) -> mx.array:
        output = original(arrays, axis, **options)
        if axis == 0:
            stacks[id(output)] = _Stack(output, tuple(arrays))
        return output

    mx.stack = stack  # type: ignore[assignment]
    try:
        yield stacks
    finally:
        mx.stack = original


_IN_PLACE: Final = tuple(
    f"__{name}__"
    for name in (
        *("iadd", "iand", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow"),
        *("irshift", "isub", "itruediv", "ixor", "setitem"),
    )
)


@contextmanager
def _recorded_changes() -> Iterator[set[int]]:
    """Collect the identities of arrays that are changed in place."""
    changed: set[int] = set()
    originals = {name: getattr(mx.array, name) for name in _IN_PLACE if hasattr(mx.array, name)}
    for name, original in originals.items():
        setattr(mx.array, name, _recording(original, changed))
    try:
        yield changed
    finally:
        for name, original in originals.items():
            setattr(mx.array, name, original)


def _recording(original: Callable[..., Any], changed: set[int]) -> Callable[..., Any]:
    def change(array: mx.array, *operands: Any) -> Any:
        changed.add(id(array))
        return original(array, *operands)

    return change


def _origin(
    array: mx.array, names: Mapping[int, str], stacks: Mapping[int, _Stack]
) -> tuple[str, ...] | None:
    if id(array) in names:
        return (names[id(array)],)
    stack = stacks.get(id(array))
    if stack is None or any(id(part) not in names for part in stack.inputs):
        return None
    return tuple(names[id(part)] for part in stack.inputs)
