"""Which module reads the output of which norm, and how strongly that scales each channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn

from bitbudget.workers.models.trace import trace_model

__all__ = ["norm_gains", "norm_readers"]

Gains = npt.NDArray[np.float32]


def norm_gains(model: nn.Module) -> Mapping[str, Gains]:
    """Return the gains (in,) of a norm's channels by the path of each module that reads it.

    The gain is half the difference between what the norm makes of alternating signs and of their
    negative, so that biases and offsets (Gemma's 1 + weight) are understood without rules.
    """
    norms = dict(model.named_modules())
    read = norm_readers(model)
    known = {path: _gains(norms[path]) for path in set(read.values())}
    found = {path: known[norm] for path, norm in read.items()}
    return {path: gains for path, gains in found.items() if gains is not None}


def norm_readers(model: nn.Module) -> Mapping[str, str]:
    """Return the path of the norm that each module reads, by the path of the module.

    One lazy forward pass shows it: a module is called with the very array that a norm returned.
    """
    modules = [(path, module) for path, module in model.named_modules() if path]
    norms = {id(module): path for path, module in modules if _is_norm(module)}
    readers = {id(module): path for path, module in modules if hasattr(module, "to_quantized")}
    made: dict[int, tuple[mx.array, str]] = {}
    read: dict[str, str] = {}

    def returned(module: nn.Module, output: Any) -> None:
        if isinstance(output, mx.array) and id(module) in norms:
            made[id(output)] = (output, norms[id(module)])

    def called(module: nn.Module, inputs: Any) -> None:
        if id(inputs) in made and id(module) in readers:
            read[readers[id(module)]] = made[id(inputs)][1]

    with ExitStack() as stack:
        for kind in {type(module) for _, module in modules if id(module) in norms}:
            stack.enter_context(_watched(kind, returned=returned))
        for kind in {type(module) for _, module in modules if id(module) in readers}:
            stack.enter_context(_watched(kind, called=called))
        trace_model(model)
    return read


def _is_norm(module: Any) -> bool:
    return type(module).__name__.endswith("Norm") and "weight" in module


def _gains(norm: nn.Module) -> Gains | None:
    width = norm["weight"].shape[-1]
    signs = mx.where(mx.arange(width) % 2 == 0, 1.0, -1.0)
    try:
        halves = (norm(signs[None]) - norm(-signs[None]))[0] * signs / 2
    except (TypeError, ValueError):  # a norm that takes more than its input
        return None
    return np.array(halves.astype(mx.float32))


@contextmanager
def _watched(
    owner: type,
    *,
    called: Callable[[nn.Module, Any], None] | None = None,
    returned: Callable[[nn.Module, Any], None] | None = None,
) -> Iterator[None]:
    """Tell of the first argument and of the result of every call of `owner`'s instances."""
    name = "__call__"
    original = getattr(owner, name)
    is_own = name in vars(owner)

    def observed(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        if called is not None and arguments:
            called(module, arguments[0])
        output = original(module, *arguments, **options)
        if returned is not None:
            returned(module, output)
        return output

    setattr(owner, name, observed)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
