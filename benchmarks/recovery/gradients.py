"""The gradient of KL with respect to dequantized weights, with how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from bitbudget.workers.models.chat import chat_of
from bitbudget.workers.recovery.divergence import cross_entropy
from bitbudget.workers.recovery.training import ROWS, Training
from bitbudget.workers.running.numpy_functions import by_numpy, softmax
from bitbudget.workers.running.tokens import sample_tokens

__all__ = ["WeightGradients", "fresh_batches", "rollout_batches"]

Batches = Iterable[tuple[mx.array, mx.array]]
"""Token ids (rows, length) with the original's probabilities (rows, length, vocabulary)."""


def rollout_batches(training: Training, count: int) -> Iterator[tuple[mx.array, mx.array]]:
    """Yield so many batches of what `training` trains on."""
    for _ in range(count):
        yield training.prepare().next(grow=True)


def fresh_batches(
    training: Training, count: int, *, seed: int
) -> Iterator[tuple[mx.array, mx.array]]:
    """Yield so many batches of the original's own text, no token twice."""
    original, folder = training.judge.original, training.judge.reference
    tokens = sample_tokens(folder, ROWS * count, seed=seed, chat=chat_of(folder), model=original)
    for number in range(count):
        ids = mx.array(tokens[number * ROWS : (number + 1) * ROWS])
        yield ids, softmax(original(ids).astype(mx.float32))


@dataclass
class WeightGradients:
    """Running sums of the gradient by module, float32 (..., out, in), over batches.

    Batches go to two halves in turn, so that what both say can be told from noise.
    """

    sums: tuple[dict[str, mx.array], dict[str, mx.array]] = field(default_factory=lambda: ({}, {}))
    squares: dict[str, mx.array] = field(default_factory=dict)
    batches: int = 0

    @classmethod
    def at(
        cls,
        training: Training,
        batches: Batches,
        see: Callable[[WeightGradients], None] | None = None,
    ) -> WeightGradients:
        """Return the gradients at what is kept so far; `see` is told after each batch."""
        found = cls()
        modules: dict[str, Any] = training.student.open().modules
        weights = {path: modules[path].weight for path in training.student.stored}

        logits: Any = training.student.apply(training.kept, stored=True)

        def loss(moved: dict[str, mx.array], ids: mx.array, target: mx.array) -> mx.array:
            for path, weight in moved.items():
                modules[path].weight = weight
            value: Any = cross_entropy(logits(ids), target)
            return value  # type: ignore[no-any-return]

        for ids, target in batches:
            with by_numpy():
                found.add(mx.grad(loss)(weights, ids, target))
            if see is not None:
                see(found)
        return found

    def add(self, gradient: dict[str, mx.array]) -> None:
        """Add the gradient of a batch."""
        half = self.sums[self.batches % 2]
        half.update({path: half.get(path, 0.0) + g for path, g in gradient.items()})
        squares = {p: self.squares.get(p, 0.0) + mx.square(g) for p, g in gradient.items()}
        self.squares.update(squares)
        self.batches += 1
        mx.eval(half, self.squares)

    def halves(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the means over both halves of the batches, of which there are two at least."""
        counts = (self.batches - self.batches // 2, self.batches // 2)
        first, second = (
            np.array(half[path]) / np.float32(count)
            for half, count in zip(self.sums, counts, strict=True)
        )
        return first, second

    def mean(self, path: str) -> np.ndarray:
        """Return the mean over all batches."""
        whole: np.ndarray = np.array(self.sums[0][path] + self.sums[1][path]) / np.float32(
            self.batches
        )
        return whole

    def standard_error(self, path: str) -> np.ndarray:
        """Return the standard error of the mean, of each weight, from the spread of batches."""
        variance = np.array(self.squares[path]) / self.batches - np.square(self.mean(path))
        error: np.ndarray = np.sqrt(np.maximum(variance, 0) / max(self.batches - 1, 1))
        return error

    def cosine(self) -> float:
        """Return the cosine of both halves, of the median module."""
        return float(np.median([_cosine(*self.halves(path)) for path in self.sums[0]]))


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.vdot(one, other) / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-30))
