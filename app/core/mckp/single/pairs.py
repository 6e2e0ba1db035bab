"""A good choice at once: two lists of partial choices of the nearest groups, matched in pairs.

Each list holds thousands of sums; for every one of the first, the best partner in the second that
still fits is found by bisection, so that millions of combinations are weighed in a millisecond
(Horowitz and Sahni, Computing partitions with applications to the knapsack problem, Journal of the
ACM 21, 1974: the idea of two lists).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from bitbudget.app.core.mckp.problem import Floats, Integers
from bitbudget.app.core.mckp.single.relaxation import Break
from bitbudget.app.core.mckp.single.stages import Stage, States, undominated

__all__ = ["PAIR_GROUPS", "best_pair", "sums_of"]

PAIR_GROUPS: Final = 20
"""Groups that make up one list."""

_OPTIONS: Final = 3
_WIDTH: Final = 4000


def best_pair(first: States, second: States, at: Break, gap: float) -> tuple[float, dict[int, int]]:
    """Return the least gap of a pair, if below `gap`, and the options that it changes."""
    if not first.moved.size:
        return gap, {}
    cost = second.penalty - at.price * second.moved
    best_until = _running_argmin(cost)
    room = at.left_bytes - first.moved
    partner = np.searchsorted(second.moved, room, side="right") - 1
    fits = partner >= 0
    value = np.full(first.moved.size, np.inf)
    value[fits] = first.penalty[fits] + cost[best_until[partner[fits]]] + at.price * room[fits]
    place = int(np.argmin(value))
    if not value[place] < gap:
        return gap, {}
    mate = int(best_until[partner[place]])
    return float(value[place]), first.changes(place) | second.changes(mate)


def sums_of(stages: Sequence[Stage], at: Break, gap: float) -> States:
    """Return the sums of some groups' options, sorted by bytes; beyond the width, the cheapest."""
    states = States()
    for whole in stages:
        stage = _fewer(whole)
        moved, penalty = states.extended(stage)
        alive = np.flatnonzero(penalty < gap)
        if alive.size > _WIDTH:
            alive = alive[np.argsort(penalty[alive], kind="stable")[:_WIDTH]]
        alive = alive[np.argsort(moved[alive], kind="stable")]
        alive = alive[undominated(moved[alive], penalty[alive], at.price)]
        states.keep(stage, alive, moved[alive], penalty[alive])
    return states


def _fewer(stage: Stage) -> Stage:
    """Return the stage with its cheapest options only."""
    cheapest = np.sort(np.argsort(stage.penalty, kind="stable")[:_OPTIONS])
    return replace(
        stage,
        options=stage.options[cheapest],
        moved=stage.moved[cheapest],
        penalty=stage.penalty[cheapest],
    )


def _running_argmin(values: Floats) -> Integers:
    """Return the place of the least value up to every place."""
    lowest = np.minimum.accumulate(values)
    is_new = np.ones(values.size, dtype=np.bool_)
    is_new[1:] = lowest[1:] < lowest[:-1]
    places: Integers = np.maximum.accumulate(np.where(is_new, np.arange(values.size), 0))
    return places
