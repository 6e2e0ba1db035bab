"""The weight that makes up for inputs that are no longer the original's.

A module reads x in the original and y in the model whose layers before it are coded. The least
squares answer to E ||W x - W' y||^2 is W' = W + W E[(x - y) y^T] E[y y^T]^-1: the errors of the
layers before are corrected as far as a linear map of y can (quantization error propagation,
arXiv 2504.09629). On few tokens that map fits noise, so only the part of it that lowers the error
on tokens it was not fitted to is applied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import mlx.core as mx
import numpy as np

from bitbudget.workers.encoders.compensated import inverse_factor
from bitbudget.workers.encoders.quadratic import DAMPING

__all__ = ["Correction", "Halves", "Inputs", "Moments", "Tokens"]

_TOKENS_AT_ONCE: Final = 1024

Change = Callable[[np.ndarray], np.ndarray]
"""From a float32 weight W (out, in) to W E[(x - y) y^T] E[y y^T]^-1."""


class Inputs(Protocol):
    """What is known of inputs x of the original and y of the coded model."""

    @property
    def own(self) -> np.ndarray:
        """The sum over tokens of y y^T, float32 (in, in)."""

    def fitted(self) -> Change:
        """Return the least squares change of a weight, no change where no input came."""

    def useful(self, weight: np.ndarray, change: np.ndarray) -> tuple[float, float]:
        """Return the sums over tokens of (D y)^T W (x - y) and of |D y|^2, for W and its change D.

        Both are float32 (out, in). Their ratio is the share of D that is best here.
        """

    def __add__(self, other: Any, /) -> Inputs:
        """Return what is known of the tokens of both, which are of one kind."""


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

    def fitted(self) -> Change:
        """Return the change as a map (in, in) that is made once."""
        mean = _mean_square(self.own)
        if not mean:
            return np.zeros_like
        factor = inverse_factor(self.own, DAMPING)
        whole = (self.drift / np.float32(mean)) @ factor.T @ factor
        return lambda weight: weight @ whole

    def useful(self, weight: np.ndarray, change: np.ndarray) -> tuple[float, float]:
        """Return what both sums say of a weight and a change of it."""
        gained, spent = change * (weight @ self.drift), change * (change @ self.own)
        return float(gained.sum(dtype=np.float64)), float(spent.sum(dtype=np.float64))


@dataclass(slots=True)
class Tokens:
    """Fewer tokens than inputs: y and x - y of each, float32 (tokens, in).

    With rows y_i and x_i - y_i in Y and D, D^T Y (Y^T Y + d I)^-1 = D^T (Y Y^T + d I)^-1 Y: the
    same change as by moments, from matrices as large as there are tokens.
    """

    coded: np.ndarray
    drift: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """The sum over tokens of y y^T."""
        found: np.ndarray = self.coded.T @ self.coded
        return found

    def __add__(self, other: Tokens) -> Tokens:
        pairs = ((self.coded, other.coded), (self.drift, other.drift))
        return Tokens(*map(np.concatenate, pairs))

    def fitted(self) -> Change:
        """Return the change by way of the products of tokens."""
        products = self.coded @ self.coded.T
        mean, (count, width) = _mean_square(products), self.coded.shape
        if not mean:
            return np.zeros_like
        factor = inverse_factor(products, DAMPING * count / width)

        def change(weight: np.ndarray) -> np.ndarray:
            by_token = (weight @ self.drift.T) @ factor.T @ factor
            found: np.ndarray = (by_token / np.float32(mean)) @ self.coded
            return found

        return change

    def useful(self, weight: np.ndarray, change: np.ndarray) -> tuple[float, float]:
        """Return both sums token by token."""
        made, wanted = change @ self.coded.T, weight @ self.drift.T
        gained = np.einsum("ij,ij->", made, wanted, dtype=np.float64)
        return float(gained), float(np.einsum("ij,ij->", made, made, dtype=np.float64))


def _mean_square(products: np.ndarray) -> float:
    """Return the mean of a diagonal, zero where it is none."""
    mean = float(np.trace(products, dtype=np.float64)) / max(len(products), 1)
    return mean if np.isfinite(mean) and mean > 0 else 0.0


class Halves:
    """What is known of the inputs of one half of the sequences and of the other."""

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

    def finish(self) -> tuple[Inputs, Inputs]:
        """Return both halves and let go of them: tokens where they are fewer than inputs."""
        first, second = self._sums
        if first.are_few and second.are_few:
            return first.tokens(), second.tokens()
        return self.moments()

    def moments(self) -> tuple[Moments, Moments]:
        """Return both halves' moments and let go of the sums."""
        first, second = (sums.moments() for sums in self._sums)
        return first, second


class _Sums:
    """Sums over tokens, many of them in one product: its result is larger than few tokens are.

    As long as there are fewer tokens than inputs nothing is summed.
    """

    def __init__(self, width: int) -> None:
        self._own, self._drift = mx.zeros((width, width)), mx.zeros((width, width))
        self._waiting: list[tuple[mx.array, mx.array]] = []
        self._count = 0

    def add(self, x: mx.array, y: mx.array) -> None:
        difference = x - y
        mx.eval(y, difference)
        self._waiting.append((y, difference))
        self._count += len(y)
        if not self.are_few and sum(len(each) for each, _ in self._waiting) >= _TOKENS_AT_ONCE:
            self._sum_up()

    @property
    def are_few(self) -> bool:
        """Whether there are fewer tokens than inputs."""
        return self._count < len(self._own)

    def tokens(self) -> Tokens:
        """Return all tokens, which are few, and let go of them."""
        return Tokens(*(np.array(part) for part in self._taken()))

    def _taken(self) -> tuple[mx.array, mx.array]:
        """Return y and x - y of the tokens that wait, and let go of them."""
        waiting = self._waiting or [(mx.zeros((0, len(self._own))),) * 2]
        self._waiting = []
        y, difference = zip(*waiting, strict=True)
        return mx.concatenate(list(y)), mx.concatenate(list(difference))

    def _sum_up(self) -> None:
        y, difference = self._taken()
        self._own = self._own + y.T @ y
        self._drift = self._drift + difference.T @ y
        mx.eval(self._own, self._drift)

    def moments(self) -> Moments:
        """Return the sums and let go of them."""
        if self._waiting:
            self._sum_up()
        found = Moments(np.array(self._own), np.array(self._drift))
        self._own = self._drift = mx.zeros(())
        return found


@dataclass(frozen=True, slots=True)
class Correction:
    """The change by all tokens, which is applied, and that by each half, tried on the other."""

    whole: Change
    crossed: tuple[tuple[Change, Inputs], ...]

    @classmethod
    def of(cls, first: Inputs, second: Inputs) -> Correction:
        """Return the correction of every module that reads these inputs."""
        crossed = ((first.fitted(), second), (second.fitted(), first))
        return cls((first + second).fitted(), crossed)

    def shifted(self, weight: np.ndarray) -> np.ndarray:
        """Return W' for a float32 weight (out, in): the weight itself where the inputs agree."""
        share = np.float32(self._useful_share(weight))
        result: np.ndarray = weight + share * self.whole(weight)
        return result

    def _useful_share(self, weight: np.ndarray) -> float:
        """Return which share of the change is best on tokens it was not fitted to, 0 to 1.

        That is s with least E ||W (x - y) - s D y||^2, the change D from one half and the mean over
        the other.
        """
        found = [other.useful(weight, change(weight)) for change, other in self.crossed]
        gained, spent = (sum(parts) for parts in zip(*found, strict=True))
        return min(max(gained / spent, 0.0), 1.0) if spent > 0 else 0.0
