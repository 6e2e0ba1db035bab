"""How long the rest takes: what was planned of it, at the pace that the work has shown."""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

_TRUST: Final = 0.02
"""Part of the whole plan after which pace counts half by what was seen."""
_FOUND: Final = 8.0
"""Work this much faster than planned was not done now: it was found in a cache."""


class Pace:
    """Compares planned seconds with those that passed.

    pace = Pace()
    pace.see(planned_done=0.0, now=100.0)
    pace.see(planned_done=10.0, now=120.0)
    pace.seconds_left(planned_left=30.0)  # about 60
    """

    def __init__(self) -> None:
        self._worked = self._spent = 0.0
        self._last: tuple[float, float] | None = None

    def see(self, planned_done: float, now: float) -> None:
        """Note how many of the planned seconds are done at `now`, in seconds of any clock."""
        if self._last is None:
            self._last = planned_done, now
            return
        worked, spent = planned_done - self._last[0], now - self._last[1]
        if worked <= 0:
            return
        self._last = planned_done, now
        if worked <= _FOUND * spent:
            self._worked += worked
            self._spent += spent

    def seconds_left(self, planned_left: float) -> float:
        """Return how long what is left of the plan will take."""
        prior = _TRUST * (self._worked + planned_left)
        ratio = (self._spent + prior) / (self._worked + prior) if prior > 0 else 1.0
        return planned_left * ratio
