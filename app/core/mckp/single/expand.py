"""Closing the gap between the LP bound and the best choice by a core that grows.

Groups enter one by one, nearest to the break first (Pisinger, A minimal algorithm for the
multiple-choice knapsack problem, European Journal of Operational Research 83, 1995: the idea of an
expanding core). A state is (bytes moved, penalty) of the decided groups. It dies when its penalty
plus the LP completion of its bytes left reaches the best known gap, so that a handful of groups
usually proves optimality for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bitbudget.app.core.mckp.result import Limits
from bitbudget.app.core.mckp.single.pairs import PAIR_GROUPS, best_pair, sums_of
from bitbudget.app.core.mckp.single.relaxation import Break
from bitbudget.app.core.mckp.single.stages import Neighbourhood, Stage, States, undominated

__all__ = ["Core", "close_gap"]

_BEAM: Final = 1000
"""States kept in a first pass, which finds a good choice soon and often proves it, too."""

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


def close_gap(around: Neighbourhood, core: Core, limits: Limits) -> None:
    """Improve `core` until its choice is proven, or a limit ends the search."""
    near = around.near(core.gap - core.tolerance)
    lists = (near[half : 2 * PAIR_GROUPS : 2] for half in (0, 1))
    first, second = (sums_of(stages, core.at, core.gap) for stages in lists)
    gap, changes = best_pair(first, second, core.at, core.gap)
    if gap < core.gap:
        core.gap, core.changes = gap, changes
    for width in (min(_BEAM, limits.states), limits.states):
        if core.is_closed:
            return
        _run(around, core, limits, width)
        if core.stopped_by:
            return
    if not core.is_closed:
        core.stopped_by = "state limit"


def _run(around: Neighbourhood, core: Core, limits: Limits, width: int) -> None:
    states = States()
    left = _Allowance(limits)
    for stages in (around.near, around.far):
        if not states.moved.size:
            break
        for stage in stages(core.gap - core.tolerance):
            _advance(states, stage, core, width)
            if left.is_spent(states, core):
                return
    core.known = max(core.known, states.dropped)


@dataclass(slots=True)
class _Allowance:
    """What a run may still spend."""

    limits: Limits
    states: int = 0

    def is_spent(self, states: States, core: Core) -> bool:
        """Whether the run must end, because the target is reached or a limit is."""
        self.states += states.moved.size
        if core.gap <= core.target:
            return True
        if self.limits.is_over():
            core.stopped_by = "time limit"
        elif self.states > _HISTORY * self.limits.states:
            core.stopped_by = "state limit"
        return bool(core.stopped_by)


def _advance(states: States, stage: Stage, core: Core, width: int) -> None:
    """Let every state take every option of the stage; keep those that may still win."""
    if not states.moved.size:
        return
    moved, penalty = states.extended(stage)
    origin = np.flatnonzero(penalty < core.gap - core.tolerance)
    moved, penalty = moved[origin], penalty[origin]
    left = core.at.left_bytes - moved
    value = np.where(left >= 0, penalty + core.at.price * left, np.inf)
    best = int(np.argmin(value)) if value.size else 0
    if value.size and value[best] < core.gap:
        core.gap = float(value[best])
        core.changes = states.changes_through(stage, int(origin[best]))
    bound = penalty + stage.completion(left)
    alive = np.flatnonzero(bound < core.gap - core.tolerance)
    alive = alive[np.argsort(moved[alive], kind="stable")]
    alive = alive[undominated(moved[alive], penalty[alive], core.at.price)]
    if alive.size > width:
        ranked = np.argsort(bound[alive], kind="stable")
        states.dropped = min(states.dropped, float(bound[alive[ranked[width]]]))
        alive = alive[np.sort(ranked[:width])]
    states.keep(stage, origin[alive], moved[alive], penalty[alive])
