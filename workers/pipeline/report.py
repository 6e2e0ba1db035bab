"""How a stage tells what it is doing, knowing neither terminal nor server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bitbudget.app.contract.events import Event, Stage
from bitbudget.app.core.canonical import sha256_of

__all__ = ["Reporter", "StageReport"]

_SECONDS_BETWEEN: Final = 0.1
"""Progress is told no more often than this."""


@dataclass
class Reporter:
    """Sends events to `emit`; it stamps each with the seconds since its stage began."""

    emit: Callable[[Event], None]

    def stage(self, stage: Stage) -> StageReport:
        """Announce that `stage` begins."""
        report = StageReport(self, stage)
        self.emit(Event(kind="started", stage=stage))
        return report


@dataclass
class StageReport:
    """Progress of one stage."""

    reporter: Reporter
    stage: Stage
    _began: float = field(default_factory=time.monotonic)
    _told: float = 0.0

    def progress(self, done: int, total: int, unit: str = "bytes", detail: str = "") -> None:
        """Tell that `done` of `total` is done; all but the last may be skipped."""
        now = time.monotonic()
        if done < total and now - self._told < _SECONDS_BETWEEN:
            return
        self._told = now
        self.reporter.emit(
            Event(
                kind="progress",
                stage=self.stage,
                done=done,
                total=total,
                unit=unit,
                detail=detail,
                seconds=now - self._began,
            )
        )

    def artifact(self, path: Path) -> None:
        """Announce a finished file by its name, place and digest."""
        digest = sha256_of(path.read_bytes())
        seconds = time.monotonic() - self._began
        self.reporter.emit(
            Event(
                kind="artifact",
                stage=self.stage,
                name=path.name,
                path=str(path),
                sha256=digest,
                seconds=seconds,
            )
        )

    def log(self, detail: str) -> None:
        """Tell something that a person should know."""
        self.reporter.emit(Event(kind="log", stage=self.stage, detail=detail))
