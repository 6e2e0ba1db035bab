"""Good feasible choices for several rows: a path to feasibility, then a beam around the prices.

Everything is in gap form at the dual's prices u: a feasible choice costs
`bound + sum of penalties + u . left`, where an option's penalty is its reduced cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from bitbudget.app.core.mckp.problem import Floats, Integers
from bitbudget.app.core.mckp.result import Limits
from bitbudget.app.core.mckp.rows.lagrangian import Dual
from bitbudget.app.core.mckp.rows.system import System

__all__ = ["Reduced", "best_feasible"]

_BOOSTS: Final = 60
_BOOST: Final = 4.0
_CORE_GROUPS: Final = 400
_CORE_OPTIONS: Final = 6
_WIDTH: Final = (300, 1500)
_EFFORT: Final = 150_000
"""States kept over all groups: many groups serve better than many states at each."""

_RESTARTS: Final = 6


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """Reduced costs at the dual's prices: `penalty` (options), 0 for the choice of the dual."""

    prices: Floats
    bound: float
    penalty: Floats
    group: Integers

    @classmethod
    def of(cls, system: System, dual: Dual) -> Reduced:
        """Return the reduced costs at the best prices of `dual`."""
        key = system.problem.costs + dual.prices @ system.weights
        group = system.group_of
        return cls(dual.prices, dual.bound, np.maximum(key - key[dual.choice][group], 0.0), group)


def best_feasible(system: System, dual: Dual, reduced: Reduced, limits: Limits) -> Integers | None:
    """Return a cheap choice that meets every row, None when none was found."""
    starts = [*dual.feasible]
    boosted = _boosted(system, dual)
    if boosted is not None:
        starts += [boosted, _path(system, dual.choice, boosted, reduced)]
    starts += [_path(system, dual.choice, choice, reduced) for choice in dual.feasible[-2:]]
    best = min(starts, key=system.cost, default=None)
    for _ in range(_RESTARTS):
        if limits.is_over() or (best is not None and _is_close(system, best, dual.bound, limits)):
            break
        around = dual.choice if best is None else best
        improved = _beam(system, around, reduced)
        if improved is None or (best is not None and system.cost(improved) >= system.cost(best)):
            break
        best = improved
    return best


def _is_close(system: System, choice: Integers, bound: float, limits: Limits) -> bool:
    objective = system.cost(choice)
    return objective - bound <= limits.relative_gap * objective


def _boosted(system: System, dual: Dual) -> Integers | None:
    """Raise the prices of broken rows until the choice they lead to is feasible."""
    floor = 1e-9 * (abs(dual.bound) + 1e-300) / np.maximum(system.limits, 1)
    prices = np.maximum(dual.prices, floor)
    for _ in range(_BOOSTS):
        choice = system.cheapest_per_group(system.problem.costs + prices @ system.weights)
        broken = system.left(choice) < 0
        if not broken.any():
            return choice
        prices = np.where(broken, prices * _BOOST, prices)
    return None


def _path(system: System, start: Integers, end: Integers, reduced: Reduced) -> Integers:
    """Go from `start` to the feasible `end` group by group; return the cheapest feasible stop.

    Groups that gain most at the prices for their penalty go first.
    """
    differs = np.flatnonzero(start != end)
    moved = system.weights[:, end[differs]] - system.weights[:, start[differs]]
    gain = -(reduced.prices @ moved)
    extra = reduced.penalty[end[differs]] - reduced.penalty[start[differs]]
    order = np.argsort(np.where(gain > 0, extra / np.where(gain > 0, gain, 1.0), np.inf))
    left = system.left(start)[:, None] - np.cumsum(moved[:, order], axis=1)
    if not differs.size:
        return end
    costs = system.problem.costs
    cost = np.cumsum((costs[end[differs]] - costs[start[differs]])[order])
    cost = np.where((left >= 0).all(axis=0), cost, np.inf)
    stop = int(np.argmin(cost)) + 1
    choice = start.copy()
    choice[differs[order[:stop]]] = end[differs[order[:stop]]]
    return choice if system.is_feasible(choice) else end


def _beam(system: System, around: Integers, reduced: Reduced) -> Integers | None:
    """Search the groups nearest to the prices around a choice; None when nothing feasible."""
    stages = _core(system, around, reduced)
    width = int(np.clip(_EFFORT // max(len(stages), 1), *_WIDTH))
    left = system.left(around)[None, :]
    penalty = np.zeros(1)
    history: list[tuple[Integers, int]] = []
    best, best_value = None, np.inf
    for place, (group, options) in enumerate(stages):
        count = penalty.size
        moved = system.weights[:, options] - system.weights[:, around[group]][:, None]
        extra = reduced.penalty[options] - reduced.penalty[around[group]]
        left = np.concatenate([left, (left[None] - moved.T[:, None]).reshape(-1, left.shape[1])])
        penalty = np.concatenate([penalty, np.add.outer(extra, penalty).ravel()])
        room = left @ reduced.prices
        value = np.where((left >= 0).all(axis=1), penalty + room, np.inf)
        top = int(np.argmin(value))
        if value[top] < best_value:
            best_value = float(value[top])
            best = _unwind(around, stages, history, (top, count))
        distance = np.abs(left) @ reduced.prices
        weight = 0.02 * 50.0 ** (place / len(stages))
        kept = _widest(penalty + weight * distance, left, width)
        left, penalty = left[kept], penalty[kept]
        history.append((kept, count))
    return best


def _core(system: System, around: Integers, reduced: Reduced) -> list[tuple[int, Integers]]:
    """Return the groups with the cheapest exchanges per weight moved, nearest first.

    Some are nearest by all rows together and some by each row alone, so that what one row has left
    can be filled when most groups hardly move it.
    """
    current = around[reduced.group]
    moved = np.abs(system.weights - system.weights[:, current])
    extra = reduced.penalty - reduced.penalty[current]
    worth = reduced.prices[:, None] * moved
    chosen: list[int] = []
    for size in (worth.sum(axis=0), *worth):
        distance = np.where(size > 0, np.abs(extra) / np.where(size > 0, size, 1.0), np.inf)
        nearest = np.minimum.reduceat(distance, system.problem.offsets[:-1])
        groups = np.argsort(nearest, kind="stable")[:_CORE_GROUPS]
        chosen += groups[np.isfinite(nearest[groups])].tolist()
    stages = []
    for group in dict.fromkeys(chosen):
        options = np.arange(*system.problem.offsets[group : group + 2])
        options = options[worth[:, options].sum(axis=0) > 0]
        order = np.argsort(extra[options], kind="stable")[:_CORE_OPTIONS]
        stages.append((group, options[order]))
    return stages


def _widest(score: Floats, left: Integers, width: int) -> Integers:
    """Return `width` states of least score, one of those with equal amounts left."""
    order = np.argsort(score, kind="stable")[: 2 * width]
    mixed = left[order] @ _MIX[: left.shape[1]]
    _, first = np.unique(mixed, return_index=True)
    kept: Integers = order[np.sort(first)[:width]]
    return kept


_MIX: Final = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9] * 512, dtype=np.uint64).view(
    np.int64
) + np.arange(1024, dtype=np.int64)
"""Odd-looking multipliers whose wrapped products tell states apart."""


def _unwind(
    around: Integers,
    stages: list[tuple[int, Integers]],
    history: list[tuple[Integers, int]],
    last: tuple[int, int],
) -> Integers:
    """Return the choice of a state: its place after the last stage, back to the first."""
    choice = around.copy()
    place, count = last
    for index in range(len(history), -1, -1):
        group, options = stages[index]
        if place >= count:
            choice[group] = options[place // count - 1]
        place %= count
        if index:
            kept, count = history[index - 1]
            place = int(kept[place])
    return choice
