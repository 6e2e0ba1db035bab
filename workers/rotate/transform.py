"""Rotations as edits of weights: what is done to each array, in float32.

`R = blockdiag(S H / sqrt(32))` with random signs S per block, or the identity on blocks left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from bitbudget.metal_kernels.blocks import BLOCK, butterfly

__all__ = ["Edit", "Edits", "Rotation", "random_signs"]

Edit = Callable[[mx.array], mx.array]


def random_signs(width: int, seed: int, site: str) -> mx.array:
    """Return +-1 (width,) that depend on `seed` and the site's name only."""
    generator = np.random.default_rng([seed, *site.encode()])
    return mx.array((1 - 2 * generator.integers(0, 2, width)).astype(np.float32))


@dataclass(frozen=True)
class Rotation:
    """An orthogonal block-diagonal matrix R of `signs` (width,); False in `turned` is identity."""

    signs: mx.array
    turned: mx.array

    @classmethod
    def of(cls, signs: mx.array, alone: frozenset[int] = frozenset()) -> Rotation:
        """Return R of `signs` that leaves the blocks `alone` as they are."""
        blocks = np.repeat([index not in alone for index in range(signs.size // BLOCK)], BLOCK)
        return cls(signs, mx.array(blocks))

    def columns(self, weight: mx.array) -> mx.array:
        """Return W R: what reads a rotated activation."""
        turned = butterfly(weight * self.signs) * BLOCK**-0.5
        return mx.where(self.turned, turned, weight)

    def rows(self, weight: mx.array) -> mx.array:
        """Return R^T W, over the second axis from the end: what writes a rotated activation."""
        return self.columns(weight.swapaxes(-1, -2)).swapaxes(-1, -2)


@dataclass
class Edits:
    """The edits of each array, in order; arrays without any stay as they are."""

    by_name: dict[str, list[Edit]] = field(default_factory=dict)

    def add(self, name: str, edit: Edit) -> None:
        """Append an edit of the array `name`."""
        self.by_name.setdefault(name, []).append(edit)

    def apply(self, name: str, array: mx.array) -> mx.array:
        """Return the edited array in its own dtype."""
        edits = self.by_name.get(name)
        if not edits:
            return array
        wide = array.astype(mx.float32)
        for edit in edits:
            wide = edit(wide)
        return wide.astype(array.dtype)
