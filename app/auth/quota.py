"""How many requests one key may make: a token bucket per key, in this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from threading import Lock
from typing import Final

from bitbudget.app.http.errors import QuotaExceededError

__all__ = ["RequestQuota"]

_KEPT: Final = 10_000
_SECONDS_PER_MINUTE: Final = 60.0


class RequestQuota:
    """Lets `per_minute` requests of each owner pass, a whole minute's worth at once."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._lock = Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, owner: str) -> None:
        """Count one request; QuotaExceededError when there were too many."""
        now = time.monotonic()
        with self._lock:
            left, at = self._buckets.pop(owner, (float(self._per_minute), now))
            left += (now - at) * self._per_minute / _SECONDS_PER_MINUTE
            left = min(left, float(self._per_minute))
            is_allowed = left >= 1
            self._buckets[owner] = (left - 1 if is_allowed else left, now)
            if len(self._buckets) > _KEPT:
                self._buckets.popitem(last=False)
        if not is_allowed:
            raise QuotaExceededError(what="Requests per minute of this key", limit=self._per_minute)
