"""Cut a weight that comes in parts into segments at fixed places.

Sums are taken per segment and added in order, so the result depends neither on how a weight is cut
into parts nor on how many threads work on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from workers.native.arrays import Array

__all__ = ["cut_into_segments"]


def cut_into_segments(parts: Iterable[Array], segment_weights: int) -> Iterator[Array]:
    """Yield one-dimensional arrays of `segment_weights` elements, the last one shorter.

    A segment inside one part is a view of it; one across parts is joined.
    """
    pending: list[Array] = []
    filled = 0
    for part in parts:
        flat = np.ascontiguousarray(part).reshape(-1)
        while flat.size:
            piece, flat = np.split(flat, [min(flat.size, segment_weights - filled)])
            pending.append(piece)
            filled += piece.size
            if filled == segment_weights:
                yield _join(pending)
                pending, filled = [], 0
    if pending:
        yield _join(pending)


def _join(pieces: list[Array]) -> Array:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
