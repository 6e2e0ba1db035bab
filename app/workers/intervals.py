"""How often workers call, told to each when it registers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Intervals"]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds that a lease lasts, between its renewals, and between calls of an idle worker."""

    lease_seconds: float
    renew_seconds: float
    poll_seconds: float
