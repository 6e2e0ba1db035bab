"""Estimate the errors of `careful` on a large weight from some of its chunks of 128 weights.

The exact error with codes against the stored minmax parameters is known for the whole weight. It
explains nearly all of the variation of `careful`'s error between chunks, so a ratio estimator over
few of them is precise (Cochran, Sampling Techniques, chapters 6 and 9A). Within a segment chunks
are drawn systematically, in order of energy and with a probability in proportion to it; those whose
energy asks for more than one draw, the outliers, are encoded by right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK_WEIGHTS", "Drawn", "SampleSums", "draw_chunks", "estimate"]

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

CHUNK_WEIGHTS: Final = 128
"""One group of the largest size; `CHUNK` of the kernels."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Chunks of a segment: `certain` are in by right; each of `drawn` stands for `stands_for`."""

    certain: Indices
    drawn: Indices
    stands_for: Doubles


@dataclass(frozen=True, slots=True)
class SampleSums:
    """What was seen of a weight's chunks; arrays end in the eighteen affine formats.

    `whole` (18,) is the reference error of all chunks. `certain_*` (18,) are sums over chunks that
    are in by right, `stored` and `careful` (n, 18) single chunks that stand for `stands_for` (n,).
    """

    whole: Doubles
    certain_stored: Doubles
    certain_careful: Doubles
    stored: Doubles
    careful: Doubles
    stands_for: Doubles

    @classmethod
    def of(cls, whole: Doubles, drawn: Drawn, stored: Doubles, careful: Doubles) -> SampleSums:
        """Return the sums of a segment, given the errors of its chunks, the certain ones first."""
        certain = drawn.certain.size
        return cls(
            whole.copy(),
            stored[:certain].sum(0),
            careful[:certain].sum(0),
            stored[certain:].copy(),
            careful[certain:].copy(),
            drawn.stands_for,
        )

    def joined(self, later: SampleSums) -> SampleSums:
        """Return the sums of this and the segment that follows."""
        return SampleSums(
            self.whole + later.whole,
            self.certain_stored + later.certain_stored,
            self.certain_careful + later.certain_careful,
            np.concatenate([self.stored, later.stored]),
            np.concatenate([self.careful, later.careful]),
            np.concatenate([self.stands_for, later.stands_for]),
        )


def draw_chunks(energies: Doubles, draws: int) -> Drawn:
    """Return which of the chunks with these energies are encoded; all of them when `draws` is 0."""
    if not draws or draws >= energies.size:
        return Drawn(np.arange(energies.size), np.empty(0, np.int64), np.empty(0))
    order = np.argsort(energies, kind="stable")
    rising = energies[order]
    sums = np.cumsum(rising)
    left = draws - np.arange(draws)
    is_less = left * rising[::-1][:draws] <= sums[::-1][:draws]
    certain = int(is_less.argmax()) if is_less.any() else draws
    rest, remaining = energies.size - certain, draws - certain
    total = float(sums[rest - 1])
    if not remaining or not total:
        return Drawn(np.sort(order[rest:]), np.empty(0, np.int64), np.empty(0))
    positions = sums[:rest] * (remaining / total)
    places = np.searchsorted(positions, np.arange(remaining) + 0.5).clip(0, rest - 1)
    stands_for = total / (remaining * rising[places])
    return Drawn(np.sort(order[rest:]), order[places], stands_for)


def estimate(sample: SampleSums) -> tuple[Doubles, Doubles]:
    """Return `careful`'s total errors (18,) and their relative standard errors.

    The relative error is 0 where every chunk was encoded.
    """
    draws = len(sample.stored)
    if not draws:
        return sample.certain_careful, np.zeros_like(sample.certain_careful)
    each = sample.stands_for[:, None]
    rest = np.maximum(sample.whole - sample.certain_stored, 0)
    stored = (each * sample.stored).sum(0)
    ratio = _divided((each * sample.careful).sum(0), stored)
    total = sample.certain_careful + rest * ratio
    residuals = each * (sample.careful - ratio * sample.stored)
    variance = ((1 - 1 / each) * residuals**2).sum(0) * draws / max(draws - 1, 1)
    error = rest * _divided(np.sqrt(variance), stored)
    return total, _divided(error, total)


def _divided(numerator: Doubles, denominator: Doubles) -> Doubles:
    """Return the quotients, 0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
