"""From a problem to its useful options and the sorted steps of its LP relaxation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.ma  # np.unique loads it at its first use, which would count as solving
from numpy.typing import NDArray

from bitbudget.app.core.mckp.problem import Floats, Integers, Problem
from bitbudget.app.core.mckp.single.hull import lower_hulls

__all__ = ["Prepared", "prepare", "with_start", "without_steps"]

_PADDING: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Undominated options and the steps of the LP relaxation, steepest first.

    Options are flat, sorted by group and bytes: group i owns `offsets[i]:offsets[i + 1]`. Inside a
    group bytes rise and costs fall strictly. `source` is the option's place in the problem, `start`
    the option of every group before any step. A step replaces an option on the lower hull of its
    group by the next one there: `step_group`, `step_start` and `step_end` (options),
    `step_bytes` > 0, `slope` = cost saved per byte, falling. `reached_bytes[k]` is the total after
    k steps, `excess_cost[k]` how much more that costs than the least cost of every group. `unit`
    divides every difference of bytes. `whole_costs` says that all costs are integers whose sums
    are exact in float64.
    """

    problem: Problem
    offsets: Integers
    source: Integers
    start: Integers
    bytes: Integers
    costs: Floats
    step_group: Integers
    step_start: Integers
    step_end: Integers
    step_bytes: Integers
    slope: Floats
    reached_bytes: Integers
    excess_cost: Floats
    unit: int
    whole_costs: bool

    @property
    def minimum_bytes(self) -> int:
        """The least bytes any choice has."""
        return int(self.reached_bytes[0])

    @property
    def cheapest_bytes(self) -> int:
        """Bytes from which on the least cost of every group is affordable."""
        return int(self.reached_bytes[-1])


def prepare(problem: Problem) -> Prepared:
    """Drop dominated options, find the hulls, and sort the steps between hull options."""
    source, group = _undominated(problem)
    bytes_, costs = problem.bytes[source], problem.costs[source]
    offsets = np.searchsorted(group, np.arange(problem.groups + 1))
    hull = lower_hulls(group, bytes_, costs)
    is_step = group[hull[1:]] == group[hull[:-1]]
    start, end = hull[:-1][is_step], hull[1:][is_step]
    step_bytes = bytes_[end] - bytes_[start]
    saving = costs[start] - costs[end]
    slope = saving / step_bytes
    order = np.argsort(-slope, kind="stable")
    base = int(bytes_[offsets[:-1]].sum())
    return Prepared(
        problem=problem,
        offsets=offsets,
        source=source,
        start=offsets[:-1],
        bytes=bytes_,
        costs=costs,
        step_group=group[end][order],
        step_start=start[order],
        step_end=end[order],
        step_bytes=step_bytes[order],
        slope=slope[order],
        reached_bytes=np.concatenate([[base], base + np.cumsum(step_bytes[order])]),
        excess_cost=np.concatenate([np.cumsum(saving[order][::-1])[::-1], [0.0]]),
        unit=_common_divisor(np.diff(bytes_)[group[1:] == group[:-1]]),
        whole_costs=_are_whole(costs),
    )


def without_steps(prepared: Prepared, group: int) -> Prepared:
    """Return the problem in which `group` stays at its first option."""
    stays = prepared.step_group != group
    step_bytes, slope = prepared.step_bytes[stays], prepared.slope[stays]
    base = prepared.minimum_bytes
    start, end = prepared.step_start[stays], prepared.step_end[stays]
    saving = prepared.costs[start] - prepared.costs[end]
    return replace(
        prepared,
        step_group=prepared.step_group[stays],
        step_start=start,
        step_end=end,
        step_bytes=step_bytes,
        slope=slope,
        reached_bytes=np.concatenate([[base], base + np.cumsum(step_bytes)]),
        excess_cost=np.concatenate([np.cumsum(saving[::-1])[::-1], [0.0]]),
    )


def with_start(prepared: Prepared, group: int, option: int) -> Prepared:
    """Return the problem in which `group`, which has no steps, is fixed to `option`."""
    before, last = prepared.start[group], prepared.offsets[group + 1] - 1
    start = prepared.start.copy()
    start[group] = option
    return replace(
        prepared,
        start=start,
        reached_bytes=prepared.reached_bytes + (prepared.bytes[option] - prepared.bytes[before]),
        excess_cost=prepared.excess_cost + (prepared.costs[option] - prepared.costs[last]),
    )


def _undominated(problem: Problem) -> tuple[Integers, Integers]:
    """Return the options no other one beats on both bytes and cost, sorted by group and bytes.

    Groups of similar size are handled together as a matrix, so that padding at most doubles it.
    """
    sizes = np.diff(problem.offsets)
    classes = np.frexp(sizes - 0.5)[1] if sizes.min() != sizes.max() else np.zeros_like(sizes)
    parts = [
        _undominated_rows(problem, np.flatnonzero(classes == size_class), sizes)
        for size_class in np.unique(classes)
    ]
    if len(parts) == 1:
        return parts[0]
    source = np.concatenate([part[0] for part in parts])
    group = np.concatenate([part[1] for part in parts])
    order = np.argsort(group, kind="stable")
    return source[order], group[order]


def _undominated_rows(
    problem: Problem, groups: Integers, sizes: Integers
) -> tuple[Integers, Integers]:
    width = int(sizes[groups].max())
    bytes_, costs = _matrix(problem, groups, sizes, width)
    order = np.argsort(bytes_, axis=1, kind="stable")
    bytes_ = np.take_along_axis(bytes_, order, axis=1)
    costs = np.take_along_axis(costs, order, axis=1)
    places = np.flatnonzero(_falls(costs))
    row = places // width
    bytes_ = bytes_.ravel()[places]
    is_last = np.ones(places.size, dtype=np.bool_)
    is_last[:-1] = (bytes_[1:] != bytes_[:-1]) | (row[1:] != row[:-1])
    places, row = places[is_last], row[is_last]
    return problem.offsets[groups][row] + order.ravel()[places], groups[row]


def _matrix(
    problem: Problem, groups: Integers, sizes: Integers, width: int
) -> tuple[Integers, Floats]:
    if groups.size == problem.groups and problem.options == groups.size * width:
        return problem.bytes.reshape(-1, width), problem.costs.reshape(-1, width)
    inside = np.arange(width) < sizes[groups][:, None]
    places = np.where(inside, problem.offsets[groups][:, None] + np.arange(width), 0)
    bytes_ = np.where(inside, problem.bytes[places], _PADDING)
    return bytes_, np.where(inside, problem.costs[places], np.inf)


def _falls(costs: Floats) -> NDArray[np.bool_]:
    """Mark the options that cost less than every option before them in their row."""
    falls = np.ones(costs.shape, dtype=np.bool_)
    lowest = np.minimum.accumulate(costs, axis=1)
    np.less(costs[:, 1:], lowest[:, :-1], out=falls[:, 1:])
    return falls


def _common_divisor(differences: Integers) -> int:
    """Return the greatest common divisor, 1 when there is no difference at all."""
    if differences.size == 0:
        return 1
    divisor = int(differences[0])
    while divisor > 1:
        rest = differences % divisor
        place = int(np.argmax(rest))
        if rest[place] == 0:
            break
        divisor = int(np.gcd(divisor, rest[place]))
    return divisor


def _are_whole(costs: Floats) -> bool:
    return bool((costs == np.rint(costs)).all() and costs.sum() < 2.0**45)
