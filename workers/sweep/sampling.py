"""Estimate the errors of `careful` on a large weight from some of its blocks.

The exact error with codes against the stored minmax parameters is known for the whole weight. It
explains nearly all of the variation of `careful`'s error between blocks, so a ratio estimator over
few blocks is precise (Cochran, Sampling Techniques, chapter 6). Blocks are stratified by energy
within their segment; the largest 2 % of them are encoded all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK_WEIGHTS", "SampleSums", "choose_blocks", "estimate"]

Doubles = npt.NDArray[np.float64]

BLOCK_WEIGHTS: Final = 4096
LARGEST_FRACTION: Final = 0.02


@dataclass(frozen=True, slots=True)
class SampleSums:
    """What was seen of a weight's blocks; arrays end in the eighteen affine formats.

    `whole` (18,) is the reference error of all blocks. `certain_*` (18,) are sums over blocks that
    are in by right, `stored` and `careful` (n, 18) single blocks that stand for the others.
    """

    population: int
    whole: Doubles
    certain_stored: Doubles
    certain_careful: Doubles
    certain: int
    stored: Doubles
    careful: Doubles

    @classmethod
    def of(
        cls, whole: Doubles, population: int, stored: Doubles, careful: Doubles, certain: int
    ) -> SampleSums:
        """Return the sums of one segment whose first `certain` chosen blocks are in by right."""
        return cls(
            population,
            whole.copy(),
            stored[:certain].sum(0),
            careful[:certain].sum(0),
            certain,
            stored[certain:],
            careful[certain:],
        )

    def joined(self, later: SampleSums) -> SampleSums:
        """Return the sums of this and the segment that follows."""
        return SampleSums(
            self.population + later.population,
            self.whole + later.whole,
            self.certain_stored + later.certain_stored,
            self.certain_careful + later.certain_careful,
            self.certain + later.certain,
            np.concatenate([self.stored, later.stored]),
            np.concatenate([self.careful, later.careful]),
        )


def choose_blocks(
    energies: Doubles, sampled: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the blocks encoded by right and the sampled ones, in rising order.

    All are in by right when `sampled` is 0. Otherwise the largest are, and the rest is sorted by
    energy and cut into `sampled` strata, from each of which the middle one is taken.
    """
    if not sampled or sampled >= energies.size:
        return np.arange(energies.size), np.empty(0, np.int64)
    order = np.argsort(energies, kind="stable")
    largest = max(1, round(LARGEST_FRACTION * energies.size))
    rest = order[: energies.size - largest]
    middles = (np.arange(sampled) * 2 + 1) * rest.size // (2 * sampled)
    return np.sort(order[rest.size :]), np.sort(rest[middles])


def estimate(sample: SampleSums) -> tuple[Doubles, Doubles]:
    """Return `careful`'s total errors (18,) and their relative standard errors.

    The relative error is 0 where every block was encoded.
    """
    drawn = len(sample.stored)
    if not drawn:
        return sample.certain_careful, np.zeros_like(sample.certain_careful)
    rest = np.maximum(sample.whole - sample.certain_stored, 0)
    mean = sample.stored.mean(0)
    ratio = np.divide(sample.careful.mean(0), mean, out=np.zeros_like(mean), where=mean > 0)
    total = sample.certain_careful + rest * ratio
    residuals = sample.careful - ratio * sample.stored
    others = sample.population - sample.certain
    variance = (residuals**2).sum(0) / max(drawn - 1, 1) / drawn * (1 - drawn / others)
    error = np.divide(rest * np.sqrt(variance), mean, out=np.zeros_like(mean), where=mean > 0)
    return total, np.divide(error, total, out=np.zeros_like(total), where=total > 0)
