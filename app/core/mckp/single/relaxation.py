"""The LP relaxation at one budget: the break, its price, the choice there, and what is near.

The neighbourhood of the break: groups by distance, and what leaving the LP optimum costs.

Everything is in gap form: a choice costs `LP + sum of penalties + price * bytes left`, where the
penalty of an option is its reduced cost at the break's price (never negative).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitbudget.app.core.mckp.problem import Floats, Integers
from bitbudget.app.core.mckp.single.prepare import Prepared

__all__ = ["Break", "Completion", "Window", "break_at", "greedy_choice", "open_window"]


@dataclass(frozen=True, slots=True)
class Break:
    """Where the budget stops the steepest steps.

    The first `step` steps fit and leave `left_bytes`; the next one does not. `price` is the slope
    of that step (cost per byte), 0 when every step fits. The LP optimum is the cost after `step`
    steps less `price * left_bytes` (Sinha and Zoltners, The multiple-choice knapsack problem,
    Operations Research 27, 1979).
    """

    step: int
    price: float
    left_bytes: int

    @property
    def greedy_gap(self) -> float:
        """Cost of the choice after `step` steps above the LP optimum."""
        return self.price * self.left_bytes


def break_at(prepared: Prepared, budget: int) -> Break:
    """Return the break of a budget that is at least `prepared.minimum_bytes`.

    Bytes only move in multiples of `prepared.unit`, so the budget is rounded down to one.
    """
    usable = min(budget, prepared.cheapest_bytes) - prepared.minimum_bytes
    usable -= usable % prepared.unit
    reach = prepared.minimum_bytes + usable
    step = int(np.searchsorted(prepared.reached_bytes, reach, side="right")) - 1
    if step == prepared.slope.size:
        return Break(step, 0.0, 0)
    left = reach - int(prepared.reached_bytes[step])
    return Break(step, float(prepared.slope[step]), left)


def greedy_choice(prepared: Prepared, step: int) -> Integers:
    """Return the option of every group after the first `step` steps.

    A group's steps come in hull order, and NumPy leaves the last of repeated assignments.
    """
    choice = prepared.start.copy()
    choice[prepared.step_group[:step]] = prepared.step_end[:step]
    return choice


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """The least penalty of bringing the bytes left to zero or more with steps on one side.

    `bytes` and `penalty` are the corners of a convex piecewise linear function from (0, 0), which
    goes on with slope `beyond` per byte.
    """

    bytes: Floats
    penalty: Floats
    beyond: float

    def after(self, corner: int, amount: Floats) -> Floats:
        """Return the penalty of `amount` bytes when the first `corner` steps are gone."""
        target = self.bytes[corner] + amount
        reached: Floats = np.interp(target, self.bytes, self.penalty)
        outside = target > self.bytes[-1]
        if outside.any():
            reached[outside] += self.beyond * (target[outside] - self.bytes[-1])
        reached -= self.penalty[corner]
        return reached


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The groups that have a step within a distance of the break, nearest first.

    `groups[s]` has the LP option `current[s]`. Once groups 0..s are decided, all steps of the
    others lie beyond corner `spent[s]` of `spend` and `returned[s]` of `give_back`.
    `is_all` says that no group with a choice lies outside.
    """

    groups: Integers
    current: Integers
    spent: Integers
    returned: Integers
    spend: Completion
    give_back: Completion
    is_all: bool


def open_window(prepared: Prepared, at: Break, steps: int) -> Window:
    """Return the window of about `steps` steps on each side of the break.

    Every step outside is at least `radius` away, which bounds what the others cost per byte.
    """
    slope, price = prepared.slope, at.price
    above = slice(at.step, min(at.step + steps, slope.size))
    below = slice(max(at.step - steps, 0), at.step)
    up = price - slope[above]
    down = (slope[below] - price)[::-1]
    far_up = np.inf if above.stop == slope.size else float(up[-1])
    far_down = np.inf if below.start == 0 else float(down[-1])
    radius = min(far_up, far_down)
    if radius < np.inf:
        up, down = up[up < radius], down[down < radius]
    ups = np.arange(at.step, at.step + up.size)
    downs = np.arange(at.step - 1, at.step - 1 - down.size, -1)
    groups, current, first, order = _by_distance(prepared, ups, downs, up, down)
    seen_up = np.concatenate([[0], np.cumsum(order < up.size)])
    following = np.concatenate([first[1:], [order.size]]).astype(np.int64)
    return Window(
        groups=groups,
        current=current,
        spent=seen_up[following],
        returned=following - seen_up[following],
        spend=_completion(up, prepared.step_bytes[ups], min(price, radius)),
        give_back=_completion(down, prepared.step_bytes[downs], radius),
        is_all=radius == np.inf,
    )


def _by_distance(
    prepared: Prepared, ups: Integers, downs: Integers, up: Floats, down: Floats
) -> tuple[Integers, Integers, Integers, Integers]:
    """Return groups and current options in the order of their nearest step, and that order."""
    order = np.argsort(np.concatenate([up, down]), kind="stable")
    steps = np.concatenate([ups, downs])[order]
    is_up = order < up.size
    current = np.where(is_up, prepared.step_start[steps], prepared.step_end[steps])
    groups, first = np.unique(prepared.step_group[steps], return_index=True)
    nearest = np.argsort(first)
    first = first[nearest]
    return groups[nearest], current[first], first, order


def _completion(distance: Floats, bytes_: Integers, beyond: float) -> Completion:
    reach = np.concatenate([[0.0], np.cumsum(bytes_, dtype=np.float64)])
    penalty = np.concatenate([[0.0], np.cumsum(distance * bytes_)])
    return Completion(reach, penalty, beyond)
