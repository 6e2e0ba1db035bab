"""The lower convex hull of every group at once."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bitbudget.app.core.mckp.problem import Floats, Integers

__all__ = ["lower_hulls"]

_ROUNDS: Final = 40
"""Rounds of parallel removal before the few groups that still change are scanned one by one."""


def lower_hulls(group: Integers, bytes_: Integers, costs: Floats) -> Integers:
    """Return the indices of the points on the lower hull of their group, in ascending order.

    The points are sorted by group, and within one bytes rise and costs fall strictly. A point on or
    above the segment between two other points of its group is not a vertex, whether or not those
    two are: so all such points go at once, round by round, until none is left.
    """
    alive = np.arange(group.size)
    for _ in range(_ROUNDS):
        flat = _not_convex(group[alive], bytes_[alive], costs[alive])
        if not flat.any():
            return alive
        alive = alive[~flat]
    return _finish_by_scan(alive, group, bytes_, costs)


def _not_convex(group: Integers, bytes_: Integers, costs: Floats) -> NDArray[np.bool_]:
    same = group[1:] == group[:-1]
    step = np.where(same, np.diff(bytes_), 1)
    slope = np.diff(costs) / step
    flat = np.zeros(group.size, dtype=np.bool_)
    flat[1:-1] = same[1:] & same[:-1] & (slope[:-1] >= slope[1:])
    return flat


def _finish_by_scan(alive: Integers, group: Integers, bytes_: Integers, costs: Floats) -> Integers:
    changing = np.unique(group[alive[_not_convex(group[alive], bytes_[alive], costs[alive])]])
    settled = alive[~np.isin(group[alive], changing)]
    rest = alive[np.isin(group[alive], changing)]
    kept: list[int] = []
    for index in rest.tolist():
        while (
            len(kept) > 1
            and group[kept[-2]] == group[index]
            and _is_above(kept[-2], kept[-1], index, bytes_, costs)
        ):
            kept.pop()
        kept.append(index)
    return np.sort(np.concatenate([settled, np.array(kept, dtype=np.int64)]))


def _is_above(left: int, middle: int, right: int, bytes_: Integers, costs: Floats) -> bool:
    first = (costs[middle] - costs[left]) / (bytes_[middle] - bytes_[left])
    second = (costs[right] - costs[middle]) / (bytes_[right] - bytes_[middle])
    return bool(first >= second)
