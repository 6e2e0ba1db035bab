"""The groups of a search in the order they are decided, each with the options that may matter.

Partial choices of a search are kept with how each came to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bitbudget.app.core.mckp.problem import Floats, Integers
from bitbudget.app.core.mckp.single.prepare import Prepared
from bitbudget.app.core.mckp.single.relaxation import Break, Window, open_window

__all__ = ["Neighbourhood", "Stage", "States", "undominated"]

_STEPS: Final = 512
"""Steps on each side of the break whose groups come with the exact LP completion."""

Completion = Callable[[Integers], Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One group: `moved` bytes and `penalty` of its useful options, from its LP option.

    `completion` bounds the further penalty of a state by its bytes left, once this group is
    decided: the LP over all groups still to come.
    """

    group: int
    options: Integers
    moved: Integers
    penalty: Floats
    completion: Completion


@dataclass(frozen=True, slots=True, eq=False)
class Neighbourhood:
    """The groups around a break; `choice` is the option of every group at the break."""

    prepared: Prepared
    at: Break
    choice: Integers
    window: Window

    @classmethod
    def of(cls, prepared: Prepared, at: Break, choice: Integers) -> Neighbourhood:
        """Open the window around the break."""
        return cls(prepared, at, choice, open_window(prepared, at, _STEPS))

    def near(self, below: float) -> list[Stage]:
        """Return the groups of the window with a penalty under `below`, nearest first."""
        window = self.window
        return [
            Stage(
                group,
                options,
                moved,
                penalty,
                _lp_completion(window, int(window.spent[place]), int(window.returned[place])),
            )
            for place, group, options, moved, penalty in _useful(self, window.groups, below)
        ]

    def far(self, below: float) -> list[Stage]:
        """Return such groups outside the window, those of least penalty per byte first."""
        outside = np.ones(self.choice.size, dtype=np.bool_)
        outside[self.window.groups] = False
        useful = [*_useful(self, np.flatnonzero(outside), below)]
        useful.sort(key=lambda found: float((found[4] / np.abs(found[3])).min()))
        ratios = [float((p / np.abs(m)).min()) for _, _, _, m, p in useful]
        return [
            Stage(group, options, moved, penalty, _linear_completion(slope, self.at.price))
            for (_, group, options, moved, penalty), slope in zip(
                useful, [*ratios[1:], np.inf], strict=False
            )
        ]


def _useful(
    around: Neighbourhood, groups: Integers, below: float
) -> Iterator[tuple[int, int, Integers, Integers, Floats]]:
    """Yield place, group, options, bytes moved and penalties where any penalty is below `below`."""
    prepared = around.prepared
    sizes = prepared.offsets[groups + 1] - prepared.offsets[groups]
    ends = np.cumsum(sizes)
    place = np.repeat(np.arange(groups.size), sizes)
    options = np.arange(place.size) + (prepared.offsets[groups] - ends + sizes)[place]
    current = around.choice[groups][place]
    moved = prepared.bytes[options] - prepared.bytes[current]
    penalty = prepared.costs[options] - prepared.costs[current] + around.at.price * moved
    useful = np.flatnonzero((penalty < below) & (moved != 0))
    place, options, moved = place[useful], options[useful], moved[useful]
    penalty = np.maximum(penalty[useful], 0.0)
    starts = np.flatnonzero(np.diff(place, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, place.size]):
        mine = slice(start, stop)
        index = int(place[start])
        yield index, int(groups[index]), options[mine], moved[mine], penalty[mine]


def _lp_completion(window: Window, spent: int, returned: int) -> Completion:
    """Return the bound of the LP over the steps beyond two corners of the window."""

    def bound(left: Integers) -> Floats:
        completion = np.empty(left.size)
        over = left < 0
        completion[~over] = window.spend.after(spent, left[~over].astype(np.float64))
        completion[over] = window.give_back.after(returned, -left[over].astype(np.float64))
        return completion

    return bound


def _linear_completion(slope: float, price: float) -> Completion:
    """Return the bound when every byte moved costs `slope` at least, and an unused one `price`."""

    def bound(left: Integers) -> Floats:
        completion: Floats = np.where(left < 0, -slope, min(slope, price)) * left
        return np.where(left == 0, 0.0, completion)

    return bound


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
