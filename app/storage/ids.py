"""Time and identifiers, both from the server alone."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

__all__ = ["Clock", "is_id", "new_id", "utc_now"]

Clock = Callable[[], datetime]
"""What tells the time; tests pass their own."""

_ID: Final = re.compile(r"[0-9a-f]{32}")


def utc_now() -> datetime:
    """Return the time now, aware and in UTC."""
    return datetime.now(UTC)


def new_id(now: datetime) -> str:
    """Return 32 hex digits that sort by time: 48 bits of milliseconds, then 80 random bits.

    That is the order of UUID version 7 (RFC 9562, section 5.7): it makes an identifier a key that
    a page can continue from.
    """
    return f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(10)}"


def is_id(text: str) -> bool:
    """Whether `text` could have come from `new_id`."""
    return _ID.fullmatch(text) is not None
