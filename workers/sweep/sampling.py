"""Estimate the errors of `careful` on a large weight from some of its chunks of 128 weights.

What the sweep knows of every chunk from the extremes and energies of its groups explains most of
the variation of `careful`'s error between chunks: the squares of the ranges, and at few bits the
noise of so many steps, bounded by the energy that lies between the extremes. A regression on the
totals over the weight is therefore precise with few chunks (Cochran, Sampling Techniques, chapters
7 and 9A; Sarndal, Swensson and Wretman, Model Assisted Survey Sampling, chapter 6). Within a
segment chunks are drawn systematically and with a probability in proportion to their spread, the
sum of the squared ranges of their groups; those whose spread asks for more than one draw, the
outliers, are encoded by right.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.workers.native.arrays import address
from bitbudget.workers.native.loader import kernels

__all__ = ["CHUNK_WEIGHTS", "KNOWN", "Drawn", "SampleSums", "draw_chunks", "estimate", "spreads_of"]

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

CHUNK_WEIGHTS: Final = 128
"""One group of the largest size; `CHUNK` of the kernels."""

KNOWN: Final = 12
"""Numbers that a chunk is known by: for each of the group sizes the spread, and the bounded noise
of 2, 3 and 4 bits."""

CHUNKS_PER_PREDICTOR: Final = 8

_SPREADS: Final = slice(None, None, 4)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Chunks of a segment: `certain` are in by right; each of `drawn` stands for `stands_for`."""

    certain: Indices
    drawn: Indices
    stands_for: Doubles


@dataclass(frozen=True, slots=True)
class SampleSums:
    """What was seen of a weight's chunks.

    `known_*` (12,) are what chunks are known by: of all chunks (`known_whole`), of those that are
    in by right (`known_certain`) and of single chunks (`known`, (n, 12)) that stand for
    `stands_for` (n,). `careful_certain` (18,) and `careful` (n, 18) are its errors.
    """

    known_whole: Doubles
    known_certain: Doubles
    careful_certain: Doubles
    known: Doubles
    careful: Doubles
    stands_for: Doubles

    @classmethod
    def of(cls, whole: Doubles, drawn: Drawn, known: Doubles, careful: Doubles) -> SampleSums:
        """Return the sums of a segment.

        `whole` (12,) is known of all its chunks; `known` (chosen, 12) and `careful` (chosen, 18)
        belong to the chosen chunks, the certain ones first.
        """
        count = drawn.certain.size
        certain = known[:count].sum(0), careful[:count].sum(0)
        return cls(whole, *certain, known[count:], careful[count:], drawn.stands_for)

    def joined(self, later: SampleSums) -> SampleSums:
        """Return the sums of this and the segment that follows."""
        return SampleSums(
            self.known_whole + later.known_whole,
            self.known_certain + later.known_certain,
            self.careful_certain + later.careful_certain,
            np.concatenate([self.known, later.known]),
            np.concatenate([self.careful, later.careful]),
            np.concatenate([self.stands_for, later.stands_for]),
        )


def spreads_of(known: npt.NDArray[np.float32]) -> Doubles:
    """Return the spread of each chunk, over groups of all sizes, of what is known (12, n)."""
    spreads: Doubles = known[_SPREADS].sum(0, np.float64)
    return spreads


def draw_chunks(spreads: Doubles, draws: int) -> Drawn:
    """Return which of the chunks with these spreads are encoded; all of them when `draws` is 0."""
    if not draws or draws >= spreads.size:
        return Drawn(np.arange(spreads.size), np.empty(0, np.int64), np.empty(0))
    rest = _without_outliers(spreads, draws)
    certain = np.flatnonzero(rest < spreads)
    remaining = draws - certain.size
    sums = np.cumsum(rest)
    if not remaining or not sums[-1]:
        return Drawn(certain, np.empty(0, np.int64), np.empty(0))
    apart = float(sums[-1]) / remaining
    places = np.searchsorted(sums, (np.arange(remaining) + 0.5) * apart)
    return Drawn(certain, places, apart / rest[places])


def _without_outliers(spreads: Doubles, draws: int) -> Doubles:
    """Return the spreads, 0 where one draw stands for no more than that chunk."""
    rest, left = spreads, draws
    while left and (total := float(rest.sum())) > 0:
        is_outlier = rest >= total / left
        found = int(np.count_nonzero(is_outlier))
        if not found:
            break
        rest, left = np.where(is_outlier, 0, rest), left - found
    return rest


def estimate(sample: SampleSums) -> tuple[Doubles, Doubles]:
    """Return `careful`'s total errors (18,) and their relative standard errors.

    The relative error is 0 where every chunk was encoded.
    """
    draws = len(sample.careful)
    if not draws:
        return sample.careful_certain, np.zeros_like(sample.careful_certain)
    each = sample.stands_for[:, None]
    left = np.maximum(sample.known_whole - sample.known_certain, 0)
    coefficients, residuals = _regression(sample.known, sample.careful)
    rest = (left[:, None] * coefficients).sum(0) + (each * residuals).sum(0)
    total = sample.careful_certain + np.maximum(rest, 0)
    variance = (np.maximum(1 - 1 / each, 0) * (each * residuals) ** 2).sum(0)
    degrees = max(draws - np.count_nonzero(coefficients.any(1)), 1)
    return total, _divided(np.sqrt(variance * draws / degrees), total)


def _regression(known: Doubles, careful: Doubles) -> tuple[Doubles, Doubles]:
    """Return coefficients (12, 18) and residuals (n, 18) of `careful` on what is known.

    Chunks count by the inverse of their spread, as their errors vary in proportion to it. With few
    chunks the spread alone is used.
    """
    spreads = known[:, _SPREADS].sum(1, keepdims=True)
    is_rich = len(known) >= CHUNKS_PER_PREDICTOR * known.shape[1]
    predictors = known if is_rich else spreads
    count = predictors.shape[1]
    rows = np.concatenate([predictors, careful], axis=1) / spreads
    products = np.empty((count, rows.shape[1]))
    call = kernels().bitbudget_regress
    call.restype = None
    sizes = map(ctypes.c_longlong, (len(rows), count, rows.shape[1]))
    call(address(rows), *sizes, address(products))
    residuals = rows[:, count:] * spreads
    if is_rich:
        return products[:, count:], residuals
    coefficients = np.zeros((known.shape[1], careful.shape[1]))
    coefficients[_SPREADS] = products[:, count:]
    return coefficients, residuals


def _divided(numerator: Doubles, denominator: Doubles) -> Doubles:
    """Return the quotients, 0 where the denominator is."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
