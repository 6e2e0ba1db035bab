"""The weight that makes up for inputs that are no longer the original's.

A module reads x in the original and y in the model whose layers before it are coded. The least
squares answer to E ||W x - W' y||^2 is W' = W + W E[(x - y) y^T] E[y y^T]^-1: the errors of the
layers before are corrected as far as a linear map of y can (quantization error propagation,
arXiv 2504.09629). On few tokens that map fits noise, so only the part of it that lowers the error
on tokens it was not fitted to is applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.workers.encoders.compensated import inverse_factor
from bitbudget.workers.encoders.quadratic import DAMPING

__all__ = ["Correction", "Halves", "Moments"]

_TOKENS_AT_ONCE: Final = 1024


@dataclass(slots=True)
class Moments:
    """Sums over tokens of y y^T and of (x - y) y^T, float32 (in, in)."""

    own: np.ndarray
    drift: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.own + other.own, self.drift + other.drift)

    def over(self, divisor: float) -> Moments:
        """Return both sums divided by a number."""
        return Moments(self.own / np.float32(divisor), self.drift / np.float32(divisor))

    def map(self) -> np.ndarray:
        """Return E[(x - y) y^T] E[y y^T]^-1, float32 (in, in); zeros where no input came."""
        mean = float(np.trace(self.own, dtype=np.float64)) / len(self.own)
        if not np.isfinite(mean) or mean <= 0:
            return np.zeros_like(self.own)
        factor = inverse_factor(self.own, DAMPING)
        result: np.ndarray = (self.drift / np.float32(mean)) @ factor.T @ factor
        return result


class Halves:
    """The moments of one half of the sequences and of the other."""

    def __init__(self, width: int) -> None:
        self._sums = _Sums(width), _Sums(width)

    def add(self, original: mx.array, coded: mx.array) -> None:
        """Add inputs (sequences, ..., in) of the original and of the coded model."""
        width = original.shape[-1]
        if len(original) == 1:
            original, coded = (a.reshape(-1, width) for a in (original, coded))
        middle = len(original) // 2
        for half, part in enumerate((slice(None, middle), slice(middle, None))):
            x, y = (a[part].reshape(-1, width).astype(mx.float32) for a in (original, coded))
            self.add_to(half, x, y)

    def add_to(self, half: int, original: mx.array, coded: mx.array) -> None:
        """Add float32 inputs (tokens, in) to one half, 0 or 1."""
        self._sums[half].add(original, coded)

    def finish(self) -> tuple[Moments, Moments]:
        """Return both halves' moments and let go of the sums."""
        first, second = (sums.finish() for sums in self._sums)
        return first, second


class _Sums:
    """Sums over tokens, many of them in one product: its result is larger than few tokens are."""

    def __init__(self, width: int) -> None:
        self._own, self._drift = mx.zeros((width, width)), mx.zeros((width, width))
        self._waiting: list[tuple[mx.array, mx.array]] = []

    def add(self, x: mx.array, y: mx.array) -> None:
        mx.eval(x, y)
        self._waiting.append((x, y))
        if sum(len(each) for each, _ in self._waiting) >= _TOKENS_AT_ONCE:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._waiting:
            return
        x, y = (mx.concatenate(list(parts)) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        self._own = self._own + y.T @ y
        self._drift = self._drift + (x - y).T @ y
        mx.eval(self._own, self._drift)

    def finish(self) -> Moments:
        self._sum_up()
        found = Moments(np.array(self._own), np.array(self._drift))
        self._own = self._drift = mx.zeros(())
        return found


@dataclass(frozen=True, slots=True)
class Correction:
    """The map of all tokens, which is applied, and of each half with the other's moments."""

    whole: np.ndarray
    crossed: tuple[tuple[np.ndarray, Moments], ...]

    @classmethod
    def of(cls, first: Moments, second: Moments) -> Correction:
        """Return the correction of every module that reads these inputs."""
        crossed = ((first.map(), second), (second.map(), first))
        return cls((first + second).map(), crossed)

    def shifted(self, weight: np.ndarray) -> np.ndarray:
        """Return W' for a float32 weight (out, in): the weight itself where the inputs agree."""
        change = weight @ self.whole
        result: np.ndarray = weight + np.float32(self._useful_share(weight)) * change
        return result

    def _useful_share(self, weight: np.ndarray) -> float:
        """Return which share of the change is best on tokens it was not fitted to, 0 to 1.

        That is s with least E ||W (x - y) - s W M y||^2, M from one half and the mean over the
        other.
        """
        gained, spent = 0.0, 0.0
        for fitted, other in self.crossed:
            change = weight @ fitted
            gained += float(np.vdot(change, weight @ other.drift))
            spent += float(np.vdot(change, change @ other.own))
        return min(max(gained / spent, 0.0), 1.0) if spent > 0 else 0.0
