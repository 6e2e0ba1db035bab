"""A float32 model some of whose weights are replaced, held in memory or read for every pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import mlx.core as mx
from mlx import nn

from bitbudget.app.core.canonical import JsonObject
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.streaming_forward import (
    Forward,
    Weight,
    open_forward,
    streamed_logits,
)

__all__ = ["Candidate", "open_candidate"]

_NOTHING: Final = mx.zeros(())


class Candidate(Forward, Protocol):
    """A model whose modules' weights can be replaced."""

    def replace(self, weights: Mapping[str, Weight]) -> None:
        """Put these in the place of the weights of the modules at their paths."""
        ...

    def restore(self, paths: Collection[str]) -> None:
        """Put the original's weights back."""
        ...


def open_candidate(folder: Path, *, memory_bytes: int | None = None) -> Candidate:
    """Return the model in `folder`, held where half of the memory holds it in float32."""
    model = open_forward(folder, memory_bytes=memory_bytes)
    return _Held(folder, model) if isinstance(model, nn.Module) else _Read(folder)


class _Held:
    """All weights stay in memory; a replaced one is freed."""

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self._folder, self._model = folder, model

    def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
        logits: mx.array = self._model(ids, cache=cache)
        return logits

    def replace(self, weights: Mapping[str, Weight]) -> None:
        for path, make in weights.items():  # what is replaced is freed before the next is made
            self._put(path, _NOTHING)
            self._put(path, make())

    def restore(self, paths: Collection[str]) -> None:
        if paths:
            originals: JsonObject = dict(load_float32(self._folder).named_modules())
            self.replace({path: partial(getattr, originals[path], "weight") for path in paths})

    def _put(self, path: str, weight: mx.array) -> None:
        mx.eval(weight)
        self._model.load_weights([(f"{path}.weight", weight)], strict=False)


class _Read:
    """Every pass reads the model and what replaces its weights, and keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._replaced: dict[str, Weight] = {}

    def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
        return streamed_logits(partial(load_float32, self._folder), ids, cache, self._replaced)

    def replace(self, weights: Mapping[str, Weight]) -> None:
        self._replaced |= weights

    def restore(self, paths: Collection[str]) -> None:
        for path in paths:
            self._replaced.pop(path, None)
