"""Closing the gap between the LP bound and the best choice by a core that grows.

Groups enter one by one, nearest to the break first (Pisinger, A minimal algorithm for the
multiple-choice knapsack problem, European Journal of Operational Research 83, 1995: the idea of an
expanding core). A state is (bytes moved, penalty) of the decided groups. It dies when its penalty
plus the LP completion of its bytes left reaches the best known gap, so that a handful of groups
usually proves optimality for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.core.mckp.prepare import Prepared
from app.core.mckp.problem import Floats, Integers
from app.core.mckp.relaxation import Break
from app.core.mckp.result import Limits
from app.core.mckp.window import Window, open_window

__all__ = ["Core", "close_gap"]

_FIRST_STEPS: Final = 256
_GROWTH: Final = 4
_BEAM: Final = 2_000
"""States kept in a first pass that only looks for a good choice."""

_HISTORY: Final = 32
"""The states of all stages together may be this many times those held at once."""


@dataclass(slots=True)
class Core:
    """The state of a search around the break `at`.

    `gap` is the cost of the best choice above the LP optimum and `changes` its options (group ->
    option) where they differ from the LP choice. No choice within `known` of the LP
    optimum is better: the least bound of any state dropped without proof. `tolerance` is what
    rounding may hide.
    """

    at: Break
    gap: float
    tolerance: float
    target: float
    changes: dict[int, int] = field(default_factory=dict)
    known: float = 0.0
    stopped_by: str = ""

    @property
    def proven_gap(self) -> float:
        """No choice costs less than the LP optimum plus this."""
        return max(0.0, min(self.gap - self.tolerance, self.known))

    @property
    def is_proven(self) -> bool:
        """Whether no choice is better, but for rounding."""
        return self.known >= self.gap - self.tolerance

    @property
    def is_closed(self) -> bool:
        """Whether the choice is proven to be as good as asked for."""
        return self.gap <= self.target or self.is_proven


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """One group's options that may still matter; `moved` bytes and `penalty` from its LP option."""

    group: int
    options: Integers
    moved: Integers
    penalty: Floats
    spent: int
    returned: int
    window: Window


@dataclass(slots=True)
class _States:
    """Partial choices and how each came to be: parent and option of every stage.

    `dropped` is the least bound of any state that was dropped for want of room.
    """

    moved: Integers
    penalty: Floats
    dropped: float = np.inf
    origins: list[tuple[_Stage, int, Integers]] = field(default_factory=list)

    def path(self, origin: int, stage: _Stage, count: int) -> dict[int, int]:
        """Return the changed options of the state that `origin` of `stage` leads to."""
        changes: dict[int, int] = {}
        steps: list[tuple[_Stage, int, int]] = [(stage, count, origin)]
        place = origin % count
        for earlier, width, origins in reversed(self.origins):
            found = int(origins[place])
            steps.append((earlier, width, found))
            place = found % width
        for step, width, found in steps:
            if found >= width:
                changes[step.group] = int(step.options[found // width - 1])
        return changes


def close_gap(prepared: Prepared, core: Core, limits: Limits) -> None:
    """Improve `core` until its choice is proven, or a limit ends the search."""
    for width in (min(_BEAM, limits.states), limits.states):
        _run(prepared, core, limits, width)
        if core.is_closed or core.stopped_by:
            return
    core.stopped_by = "state limit"


def _run(prepared: Prepared, core: Core, limits: Limits, width: int) -> None:
    states = _States(np.zeros(1, dtype=np.int64), np.zeros(1))
    total = 0
    for stage in _stages(prepared, core):
        _advance(states, stage, core, width)
        total += states.moved.size
        if core.gap <= core.target:
            return
        if not states.moved.size:
            break
        if limits.is_over():
            core.stopped_by = "time limit"
            return
        if total > _HISTORY * limits.states:
            core.stopped_by = "state limit"
            return
    core.known = max(core.known, states.dropped)


def _stages(prepared: Prepared, core: Core) -> Iterator[_Stage]:
    """Yield the groups nearest first, opening wider windows while states are alive."""
    steps, done = _FIRST_STEPS, 0
    while True:
        window = open_window(prepared, core.at, steps)
        if window.groups.size > done:
            yield from _stages_of(prepared, core, window, done)
            done = window.groups.size
        if window.is_all:
            return
        steps *= _GROWTH


def _stages_of(prepared: Prepared, core: Core, window: Window, done: int) -> Iterator[_Stage]:
    """Yield the groups of a window that have an option with a penalty below the gap.

    The last group always comes, so that states are held against the whole window.
    """
    groups, current = window.groups[done:], window.current[done:]
    sizes = prepared.offsets[groups + 1] - prepared.offsets[groups]
    ends = np.cumsum(sizes)
    place = np.repeat(np.arange(groups.size), sizes)
    options = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes) + prepared.offsets[groups][place]
    moved = prepared.bytes[options] - prepared.bytes[current][place]
    extra = prepared.costs[options] - prepared.costs[current][place]
    penalty = np.maximum(extra + core.at.price * moved, 0.0)
    useful = np.flatnonzero((penalty < core.gap - core.tolerance) & (moved != 0))
    options, moved, penalty = options[useful], moved[useful], penalty[useful]
    cuts = np.searchsorted(place[useful], np.arange(groups.size + 1)).tolist()
    for index, group in enumerate(groups.tolist()):
        mine = slice(cuts[index], cuts[index + 1])
        if mine.start == mine.stop and index < groups.size - 1:
            continue
        yield _Stage(
            group,
            options[mine],
            moved[mine],
            penalty[mine],
            int(window.spent[done + index]),
            int(window.returned[done + index]),
            window,
        )


def _advance(states: _States, stage: _Stage, core: Core, width: int) -> None:
    """Let every state take every option of the stage; keep those that may still win."""
    count = states.moved.size
    moved = np.concatenate([states.moved, np.add.outer(stage.moved, states.moved).ravel()])
    penalty = np.concatenate([states.penalty, np.add.outer(stage.penalty, states.penalty).ravel()])
    origin = np.flatnonzero(penalty < core.gap - core.tolerance)
    moved, penalty = moved[origin], penalty[origin]
    left = core.at.left_bytes - moved
    value = np.where(left >= 0, penalty + core.at.price * left, np.inf)
    best = int(np.argmin(value)) if value.size else 0
    if value.size and value[best] < core.gap:
        core.gap = float(value[best])
        core.changes = states.path(int(origin[best]), stage, count)
    bound = penalty + _completion(stage, left)
    alive = np.flatnonzero(bound < core.gap - core.tolerance)
    alive = alive[np.argsort(moved[alive], kind="stable")]
    alive = alive[_undominated(moved[alive], penalty[alive], core.at.price)]
    if alive.size > width:
        ranked = np.argsort(bound[alive], kind="stable")
        states.dropped = min(states.dropped, float(bound[alive[ranked[width]]]))
        alive = alive[np.sort(ranked[:width])]
    states.moved, states.penalty = moved[alive], penalty[alive]
    states.origins.append((stage, count, origin[alive]))


def _completion(stage: _Stage, left: Integers) -> Floats:
    """Return the LP bound on the further penalty of states with these bytes left."""
    completion = np.empty(left.size)
    over = left < 0
    window = stage.window
    completion[~over] = window.spend.after(stage.spent, left[~over].astype(np.float64))
    completion[over] = window.give_back.after(stage.returned, -left[over].astype(np.float64))
    return completion


def _undominated(moved: Integers, penalty: Floats, price: float) -> NDArray[np.bool_]:
    """Mark the states whose cost is below that of every state with fewer bytes (sorted)."""
    cost = penalty - price * moved
    falls = np.ones(moved.size, dtype=np.bool_)
    np.less(cost[1:], np.minimum.accumulate(cost)[:-1], out=falls[1:])
    return falls
