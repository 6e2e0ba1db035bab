"""Partial choices of a search, and how each came to be."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitbudget.app.core.mckp.problem import Floats, Integers
from bitbudget.app.core.mckp.stages import Stage

__all__ = ["States", "undominated"]


@dataclass(slots=True)
class States:
    """`moved` bytes and `penalty` of every state, with parent and option of every stage.

    `dropped` is the least bound of any state that was dropped for want of room.
    """

    moved: Integers = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    penalty: Floats = field(default_factory=lambda: np.zeros(1))
    dropped: float = np.inf
    origins: list[tuple[Stage, int, Integers]] = field(default_factory=list)

    def extended(self, stage: Stage) -> tuple[Integers, Floats]:
        """Return bytes and penalties when every state stays, or takes each option of `stage`."""
        moved = np.concatenate([self.moved, np.add.outer(stage.moved, self.moved).ravel()])
        penalty = np.concatenate([self.penalty, np.add.outer(stage.penalty, self.penalty).ravel()])
        return moved, penalty

    def keep(self, stage: Stage, origin: Integers, moved: Integers, penalty: Floats) -> None:
        """Go on with states that come from places `origin` of `extended`."""
        self.origins.append((stage, self.moved.size, origin))
        self.moved, self.penalty = moved, penalty

    def changes(self, place: int) -> dict[int, int]:
        """Return the changed options of the state at `place`."""
        changed: dict[int, int] = {}
        for stage, width, origins in reversed(self.origins):
            found = int(origins[place])
            if found >= width:
                changed[stage.group] = int(stage.options[found // width - 1])
            place = found % width
        return changed

    def changes_through(self, stage: Stage, origin: int) -> dict[int, int]:
        """Return the changed options of place `origin` of `extended(stage)`."""
        option, place = divmod(origin, self.moved.size)
        last = {stage.group: int(stage.options[option - 1])} if option else {}
        return self.changes(place) | last


def undominated(moved: Integers, penalty: Floats, price: float) -> NDArray[np.bool_]:
    """Mark the states whose cost is below that of every state with fewer bytes (sorted)."""
    cost = penalty - price * moved
    falls = np.ones(moved.size, dtype=np.bool_)
    np.less(cost[1:], np.minimum.accumulate(cost)[:-1], out=falls[1:])
    return falls
