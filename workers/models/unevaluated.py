"""Weights that a model computes from its files, each taken once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import mlx.core as mx

from bitbudget.workers.models.sanitize import Sanitized

__all__ = ["Unevaluated"]

_LIMIT_BYTES: Final = 2**32


@dataclass
class Unevaluated:
    """Sanitized weights from which each is taken once, so that `sanitize` runs once for many.

    Weights made from the same source keep it in memory until all are taken; starting anew after
    _LIMIT_BYTES bounds what somebody who takes but some of them leaves behind.
    """

    weights: Sanitized | None = None
    taken_bytes: int = 0

    def take(self, name: str, sanitized: Callable[[], Sanitized]) -> Iterator[mx.array]:
        """Yield a weight, or the arrays that it is a stack of, none of them referenced here."""
        known = self.weights
        if known is None or name not in known.weights or self.taken_bytes > _LIMIT_BYTES:
            known, self.taken_bytes = sanitized(), 0
            self.weights = known
        array = known.weights.pop(name)
        parts = known.stacked.pop(name, [array])
        self.taken_bytes += array.nbytes
        del array
        parts.reverse()
        while parts:
            yield parts.pop()
