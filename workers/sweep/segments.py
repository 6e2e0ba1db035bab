"""Cut a weight into segments at fixed places, none across two of its matrices.

Sums are taken per segment and added in order, so the result depends neither on how a weight is
stored, stacked or expert by expert, nor on how many threads work on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bitbudget.workers.native.arrays import Array

__all__ = ["cut_into_segments", "segments_of"]


def segments_of(shape: Sequence[int], segment_weights: int) -> Iterator[tuple[int, int]]:
    """Yield first weight and number of weights of each segment of an array of `shape`."""
    matrix = math.prod(shape[-2:])
    for first in range(0, math.prod(shape), matrix or 1):
        for begin in range(0, matrix, segment_weights):
            yield first + begin, min(segment_weights, matrix - begin)


def cut_into_segments(parts: Iterable[Array], segment_weights: int) -> Iterator[Array]:
    """Yield the segments of whole matrices (or stacks of them) as one-dimensional views."""
    for part in parts:
        flat = np.ascontiguousarray(part).reshape(-1)
        for first, count in segments_of(part.shape, segment_weights):
            yield flat[first : first + count]
