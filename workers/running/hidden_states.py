"""Hidden states seen while a model writes its text: a pass over that text begins with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

from bitbudget.workers.running.layer_calls import decoder_layers, observed_layers

__all__ = ["HiddenStates"]

_MOST_BYTES: Final = 1 << 29
"""Of hidden states that are held until the text is written."""


@dataclass(slots=True)
class HiddenStates:
    """What enters every decoder layer, and what leaves the last, for a text of `shape`.

    `shape` is (sequences, length). `states` are float32 (sequences, length, width), one for each
    layer and one more: empty where nothing was recorded, since the model's layers are not found,
    are called otherwise than once a token, or their states would not fit.
    """

    shape: tuple[int, int]
    states: list[np.ndarray] = field(default_factory=list)
    _seen: dict[int, mx.array] = field(default_factory=dict)
    _count: int = 0

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        """Record what the layers of `model` are given."""
        layers = decoder_layers(model)[1] if isinstance(model, nn.Module) else []
        self._count = len(layers)

        def see(index: int, given: mx.array, returned: mx.array) -> None:
            self._seen[index] = given
            self._seen[index + 1] = returned

        with observed_layers(layers, see):
            yield

    def keep(self, sequences: slice, position: int) -> None:
        """Store the states (sequences, 1, width) of the latest token, which are evaluated.

        Of sequences beyond those of `shape` nothing is stored.
        """
        seen, self._seen = self._seen, {}
        rank = len(self.shape) + 1
        is_whole = self._count and len(seen) == self._count + 1
        if not is_whole or any(state.ndim != rank for state in seen.values()):
            self._forget()
            return
        mx.eval(seen)
        if not self.states:
            shapes = [(*self.shape, state.shape[-1]) for _, state in sorted(seen.items())]
            if sum(4 * int(np.prod(shape)) for shape in shapes) > _MOST_BYTES:
                self._forget()
                return
            self.states = [np.empty(shape, np.float32) for shape in shapes]
        for index, state in seen.items():
            place = self.states[index][sequences, position]
            place[:] = np.array(state[: len(place), -1], np.float32)

    def _forget(self) -> None:
        self.states, self._count = [], 0
