"""How far a measurement is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Progress", "ProgressMeter"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the measurement is: `read_bytes` of `done_bytes` were read, the others known."""

    done_bytes: int
    total_bytes: int
    read_bytes: int
    seconds: float
    path: str

    @property
    def bytes_per_second(self) -> float:
        """Rate of reading and measuring so far."""
        return self.read_bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Time that the rest takes at this rate, None before anything was read."""
        rate = self.bytes_per_second
        return (self.total_bytes - self.done_bytes) / rate if rate else None


@dataclass
class ProgressMeter:
    """Counts bytes and tells `report`, if there is one."""

    total_bytes: int
    report: Callable[[Progress], None] | None
    _done_bytes: int = 0
    _read_bytes: int = 0
    _started: float = field(default_factory=time.monotonic)

    def advance(self, path: str, nbytes: int, *, read: bool) -> None:
        """Count bytes of the tensor `path`, read now or known before."""
        self._done_bytes += nbytes
        self._read_bytes += nbytes if read else 0
        if self.report is not None:
            seconds = time.monotonic() - self._started
            state = (self._done_bytes, self.total_bytes, self._read_bytes, seconds, path)
            self.report(Progress(*state))
