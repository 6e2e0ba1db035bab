"""What a solver answers, and what it may spend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bitbudget.app.core.mckp.problem import Integers

__all__ = ["NO_LIMITS", "Limits", "Solution", "Status"]


class Status(StrEnum):
    """`optimal` is proven; `feasible` comes with the gap that is proven."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"


def _never() -> bool:
    return False


def _long() -> float:
    return 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a search before optimality is proven.

    `relative_gap` stops as soon as the proven gap is no larger. `states` bounds the partial choices
    held at once, a limit that does not depend on the machine. `is_over` is asked now and then
    whether the time is up, `seconds_left` before a solver that keeps its own time is started: the
    core has no clock.
    """

    relative_gap: float = 0.0
    states: int = 300_000
    is_over: Callable[[], bool] = _never
    seconds_left: Callable[[], float] = _long


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """One option per group, as places in the problem's flat order, with its certificate.

    `bound` <= the optimum <= `objective`. `price` is the multiplier of the budget in the bound:
    the cost saved per byte of a slightly larger budget. `used` are the sums of the rows' weights.
    """

    choice: Integers
    objective: float
    bound: float
    bytes: int
    price: float
    status: Status
    solver: str
    stopped_by: str = ""
    used: tuple[int, ...] = ()

    @property
    def gap(self) -> float:
        """(objective - bound) / objective, 0 when both are 0."""
        return (self.objective - self.bound) / self.objective if self.objective else 0.0
