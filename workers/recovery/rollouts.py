"""Text to train on: rollouts of the original with its predictions, more of them as time allows."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.canonical import JsonObject
from bitbudget.workers.models.chat import chat_of
from bitbudget.workers.running.numpy_functions import softmax
from bitbudget.workers.running.streaming_forward import Forward
from bitbudget.workers.running.tokens import sample_tokens

__all__ = ["Rollouts"]

CHUNK: Final = 64
"""Sequences written at a time: decoding costs about as much for few as for many."""
MOST: Final = 512
EPOCHS: Final = 2
"""How often everything is trained on before more is written."""
_CACHED_BYTES: Final = 1 << 29
"""The original's predictions are kept up to this size, and made again for each batch above."""


class Rollouts:
    """Batches of `rows` sequences, forever; `seed` fixes what the original in `folder` writes.

    Without `writer` it is read as memory allows to write, and `state` goes on from that of another.
    """

    def __init__(
        self,
        original: Forward,
        folder: Path,
        *,
        rows: int,
        seed: int,
        writer: Forward | None = None,
        state: tuple[np.ndarray, JsonObject] | None = None,
    ) -> None:
        self._original, self._folder, self._rows, self._seed = original, folder, rows, seed
        self._writer, self._chat = writer, chat_of(folder)
        self._order = np.random.default_rng(seed)
        self._cached: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._queue: list[int] = []
        self._epochs = 0
        if state is None:
            self.tokens = self._write(0)
            return
        self.tokens, numbers = state
        self._queue, self._epochs = numbers["queue"], numbers["epochs"]
        self._order.bit_generator.state = numbers["order"]

    def state(self) -> JsonObject:
        """Return what goes on with `tokens` where this stands, as JSON holds it."""
        order = self._order.bit_generator.state
        return {"queue": list(self._queue), "epochs": self._epochs, "order": order}

    def _write(self, done: int) -> np.ndarray:
        return sample_tokens(
            self._folder,
            CHUNK,
            seed=self._seed + done // CHUNK,
            chat=self._chat,
            model=self._writer,
        )

    def next(self, *, grow: bool) -> tuple[mx.array, mx.array]:
        """Return ids (rows, length) and the original's probabilities (rows, length, vocabulary).

        More is written, where `grow` allows it, when everything was trained on twice.
        """
        if not self._queue:
            if grow and self._epochs == EPOCHS and len(self.tokens) < MOST:
                self.tokens, self._epochs = (
                    np.concatenate([self.tokens, self._write(len(self.tokens))]),
                    0,
                )
            self._queue = self._order.permutation(len(self.tokens) // self._rows).tolist()
            self._epochs += 1
        batch = self._queue.pop()
        ids = mx.array(self.tokens[batch * self._rows : (batch + 1) * self._rows])
        return ids, self._target(batch, ids)

    def _target(self, batch: int, ids: mx.array) -> mx.array:
        """Return probabilities; cached ones are float16, which rounds by less than 0.1 %."""
        if batch in self._cached:
            return mx.array(self._cached[batch].astype(np.float32))
        target = softmax(self._original(ids).astype(mx.float32))
        if self._bytes + 2 * target.size <= _CACHED_BYTES:
            self._cached[batch] = np.array(target).astype(np.float16)
            self._bytes += 2 * target.size
        return target
