"""Durations in the words that people read."""

from __future__ import annotations

from typing import Final

__all__ = ["duration_words"]

_MINUTE: Final = 60
_HOUR: Final = 3600


def duration_words(seconds: float) -> str:
    """Return `40 s`, `3 min`, `2.5 h`."""
    if seconds < _MINUTE:
        return f"{max(seconds, 1):.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
