"""Which rows of a large weight stand for all of it, and what they say about it.

Rows are drawn in units, systematically in their order and with a probability in proportion to what
they are predicted to cost (Cochran, Sampling Techniques, chapters 6 and 9A). The total is the ratio
of what was found to what was predicted of the sample, times the prediction for the whole; its
standard error is that of Hajek for systematic samples (Sarndal, Swensson and Wretman, Model
Assisted Survey Sampling, section 3.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

__all__ = ["Drawn", "draw", "estimate", "random_start"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Units in their order with the probability that each had to be drawn, (n,) both."""

    units: np.ndarray
    probability: np.ndarray


def random_start(name: str) -> float:
    """Return a number in [0, 1) that is always the same for `name`."""
    return int.from_bytes(blake2b(name.encode(), digest_size=6).digest()) / 2.0**48


def draw(size: np.ndarray, count: int, start: float) -> Drawn:
    """Draw `count` units with a probability in proportion to `size` (units,), not negative.

    A unit whose size asks for more than one draw is in by right.
    """
    count = min(count, len(size))
    probability = np.zeros(len(size))
    certain = np.zeros(len(size), bool)
    left = np.where(size > 0, size, max(float(size.max()), 1.0) * 1e-9)
    while True:
        free = count - int(certain.sum())
        share = np.where(certain, 0, left)
        probability = np.where(certain, 1.0, free * share / max(float(share.sum()), 1e-300))
        more = (probability >= 1) & ~certain
        if not more.any():
            break
        certain |= more
    edges = np.cumsum(np.where(certain, 0, probability))
    at = np.searchsorted(edges, start + np.arange(count - int(certain.sum())), side="right")
    units = np.union1d(np.flatnonzero(certain), np.minimum(at, len(size) - 1))
    return Drawn(units, np.minimum(probability[units], 1.0))


def estimate(
    found: np.ndarray, predicted: np.ndarray, total: float, probability: np.ndarray
) -> tuple[float, float]:
    """Return the total of what is found in all units, and its relative standard error.

    Args:
        found: (n,) of the units that were drawn.
        predicted: (n,) of the same.
        total: Of the prediction over all units.
        probability: (n,) that each had to be drawn.
    """
    of_found, of_predicted = (
        float((found / probability).sum()),
        float((predicted / probability).sum()),
    )
    if of_found <= 0 or of_predicted <= 0:
        return max(of_found, 0.0), 0.0
    ratio = of_found / of_predicted
    residual = (found - ratio * predicted) / probability
    spread = float(((1 - probability) * np.square(residual)).sum())
    error = np.sqrt(spread * len(found) / max(len(found) - 1, 1)) / of_found
    return ratio * total, float(error)
