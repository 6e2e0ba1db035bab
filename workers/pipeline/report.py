"""How a step tells what it is doing, knowing neither terminal nor server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bitbudget.app.contract.events import ArtifactMade, Event, Logged, Progressed, Started
from bitbudget.app.contract.messages import storable_text
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.canonical import sha256_of

__all__ = ["Reporter", "StepReport"]

_SECONDS_BETWEEN: Final = 0.1
"""Progress is told no more often than this."""


@dataclass
class Reporter:
    """Sends events to `emit`; it stamps each with the seconds since its step began."""

    emit: Callable[[Event], None]

    def step(self, step: Step) -> StepReport:
        """Announce that `step` begins."""
        report = StepReport(self, step)
        self.emit(Started(step=step))
        return report


@dataclass
class StepReport:
    """Progress of one step."""

    reporter: Reporter
    step: Step
    _began: float = field(default_factory=time.monotonic)
    _told: float = 0.0

    def progress(self, done: int, total: int, unit: str = "bytes", detail: str = "") -> None:
        """Tell that `done` of `total` is done; all but the last may be skipped."""
        now = time.monotonic()
        if done < total and now - self._told < _SECONDS_BETWEEN:
            return
        self._told = now
        self.reporter.emit(
            Progressed(
                step=self.step,
                done=done,
                total=total,
                unit=unit,
                detail=storable_text(detail, 512),
                seconds=now - self._began,
            )
        )

    def artifact(self, path: Path) -> None:
        """Announce a finished file by its name, place and digest."""
        digest = sha256_of(path.read_bytes())
        seconds = time.monotonic() - self._began
        self.reporter.emit(
            ArtifactMade(
                step=self.step,
                name=path.name,
                path=str(path),
                sha256=digest,
                seconds=seconds,
            )
        )

    def log(self, detail: str) -> None:
        """Tell something that a person should know."""
        self.reporter.emit(Logged(step=self.step, detail=storable_text(detail)))
