"""Time and identifiers, both from the server alone."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from typing import Final

__all__ = ["Clock", "ClockWatch", "continue_after", "is_id", "new_id", "utc_now"]

Clock = Callable[[], datetime]
"""What tells the time; tests pass their own."""

_ID: Final = re.compile(r"[0-9a-f]{32}")


def utc_now() -> datetime:
    """Return the time now, aware and in UTC."""
    return datetime.now(UTC)


def new_id(now: datetime) -> str:
    """Return 32 hex digits that sort by time: 48 bits of milliseconds, then 80 random bits.

    That is the order of UUID version 7 (RFC 9562, section 5.7): it makes an identifier a key that
    a page can continue from. Those of one process only grow, even where the clock is set back.
    """
    return f"{_MILLISECONDS.next(int(now.timestamp() * 1000)):012x}{secrets.token_hex(10)}"


def continue_after(newest: str | None) -> None:
    """Let identifiers go on growing after the `newest` one, which an earlier process made.

    Its clock may have been set back since.
    """
    if newest is not None and is_id(newest):
        _MILLISECONDS.begin_after(int(newest[:12], 16))


class ClockWatch:
    """Notices that the wall clock was set: it and a monotonic clock disagree on what passed.

    watch = ClockWatch(utc_now)
    watch.jumped_seconds()
    """

    def __init__(self, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._last = (clock(), monotonic())

    def jumped_seconds(self) -> float:
        """Return by how much the wall clock was set forward since the last call; < 0 for back."""
        wall, steady = self._last
        self._last = (self._clock(), self._monotonic())
        return (self._last[0] - wall).total_seconds() - (self._last[1] - steady)


class _Growing:
    """Gives numbers that only grow."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last = -1

    def begin_after(self, last: int) -> None:
        """Give no number up to `last` any more."""
        with self._lock:
            self._last = max(self._last, last)

    def next(self, wanted: int) -> int:
        """Return `wanted`, or one more than the last number."""
        with self._lock:
            self._last = max(wanted, self._last + 1)
            return self._last


_MILLISECONDS: Final = _Growing()


def is_id(text: str) -> bool:
    """Whether `text` could have come from `new_id`."""
    return _ID.fullmatch(text) is not None
