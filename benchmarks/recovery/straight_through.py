"""Codes trained through a straight-through estimator, with the constants of earlier runs mended.

Each weight begins in the middle of its code, AdamW moves it in steps of its grid, and outside the
grid only a gradient that leads back counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from bitbudget.app.core.formats import Format
from bitbudget.workers.recovery.stored import AffineStored
from bitbudget.workers.recovery.student import Opened, Student, Values
from bitbudget.workers.recovery.training import VALUE_RATE

__all__ = ["StraightThrough"]


@mx.custom_function
def _rounded(latent: mx.array, most: mx.array) -> mx.array:
    return mx.clip(mx.round(latent), 0, most)


@_rounded.vjp
def _straight(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: Any
) -> tuple[mx.array, mx.array]:
    latent, most = primals
    leaves = ((latent <= 0) & (cotangent > 0)) | ((latent >= most) & (cotangent < 0))
    return mx.where(leaves, 0.0, cotangent), mx.zeros_like(most)


class StraightThrough(Student):
    """`student` with a further value "q" for every code; `rate` is AdamW's, in steps of the grid.

    AdamW has one rate for everything, so "q" counts in units that make `rate` of it.
    """

    def __init__(self, student: Student, formats: Mapping[str, Format], rate: float) -> None:
        vars(self).update(vars(student))
        self.unit = rate / VALUE_RATE
        self.most = {
            path: mx.array(2.0 ** formats[path].bits - 1)
            for path, own in self.stored.items()
            if isinstance(own, AffineStored)
        }

    def values(self) -> Values:
        """Return values that change nothing."""
        moves = {path: mx.zeros(self.stored[path].codes.shape) for path in self.most}
        return {**super().values(), "q": moves}

    def put(self, opened: Opened, values: Values, *, stored: bool = False) -> None:
        """Put parameters and codes into `opened`, as stored if `stored`."""
        super().put(opened, values, stored=stored)
        for path in self.most:
            own = self.stored[path].with_codes(self._codes(values, path))
            parameters = own.parameters(values["u"][path], values["v"][path])
            parameters = own.rounded(parameters) if stored else parameters
            opened.modules[path].weight = own.weight(parameters)

    def changed(self, values: Values) -> int:
        """Return how many codes differ from the stored ones."""
        pairs = ((self._codes(values, path), self.stored[path].codes) for path in self.most)
        return sum(int((new != old).sum()) for new, old in pairs)

    def _codes(self, values: Values, path: str) -> mx.array:
        rounded: Any = _rounded
        latent = self.stored[path].codes + self.unit * values["q"][path]
        found: mx.array = rounded(latent, self.most[path])
        return found
