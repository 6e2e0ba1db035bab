"""How a step tells what it is doing, knowing neither terminal nor server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from bitbudget.app.contract.events import (
    Answered,
    ArtifactMade,
    Event,
    Logged,
    Progressed,
    Started,
)
from bitbudget.app.contract.messages import storable_text
from bitbudget.app.contract.reports import Revision
from bitbudget.app.contract.steps import Step, Work
from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers.pipeline.fractions import Fractions
from bitbudget.workers.pipeline.pace import Pace

__all__ = ["Reporter"]

_SECONDS_BETWEEN: Final = 0.1
"""Progress is told no more often than this."""


class Reporter:
    """Sends events to `emit`, each stamped with the step at work and how far that and all are.

    Steps begin in the order of `steps`; those that are not needed are passed over.

        report = Reporter(print, [Step.FETCH, Step.MEASURE])
        report.begin(Step.MEASURE)
        report.progress(1, 4, "modules")
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        steps: Sequence[Step] = tuple(Step),
        work: Work | None = None,
    ) -> None:
        self._emit = emit
        self._fractions = Fractions(steps, work or Work())
        self._step: Step | None = None
        self._began = self._told = 0.0
        self._pace = Pace()
        self._revision: Revision | None = None

    def begin(self, step: Step) -> Self:
        """Announce that `step` begins; ValueError when it is not one of those to come."""
        self._fractions.begin(step)
        self._step, self._began, self._told = step, time.monotonic(), 0.0
        self._emit(Started(step=step, job_fraction=self._fractions.of_job))
        return self

    @property
    def step(self) -> Step:
        """The step at work; ValueError before the first."""
        if self._step is None:
            msg = "no step has begun"
            raise ValueError(msg)
        return self._step

    def end(self) -> None:
        """Let the step at work be done."""
        self._fractions.end()

    @property
    def work(self) -> Work:
        """What is known of the whole work."""
        return self._fractions.work

    def seconds_left(self) -> float:
        """Return how long the rest of the task will take, at the pace so far."""
        self._pace.see(self._fractions.seconds_done, time.monotonic())
        return self._pace.seconds_left(self._fractions.seconds_left)

    def weigh(self, **known: Any) -> None:
        """Divide what is left of the whole anew, with what became known of its `Work`."""
        self._fractions.work = replace(self._fractions.work, **known)
        self._pace = Pace()

    def part(self, share: float) -> AbstractContextManager[None]:
        """Return a block whose progress is `share` of the step, or of the part around it."""
        return self._fractions.part(share)

    def progress(self, done: int, total: int, unit: str = "bytes", detail: str = "") -> None:
        """Tell that `done` of `total` is done; all but the last may be skipped."""
        self._fractions.advance(done, total)
        now = time.monotonic()
        if done < total and now - self._told < _SECONDS_BETWEEN:
            return
        self._told = now
        self._emit(
            Progressed(
                step=self.step,
                done=done,
                total=total,
                unit=unit,
                detail=storable_text(detail, 512),
                seconds=now - self._began,
                seconds_left=self.seconds_left(),
                step_fraction=self._fractions.of_step,
                job_fraction=self._fractions.of_job,
            )
        )

    def artifact(self, path: Path, name: str = "") -> None:
        """Announce a finished file by its name, place and digest; `name` if not the file's own."""
        self._emit(
            ArtifactMade(
                step=self.step,
                name=name or path.name,
                path=str(path),
                sha256=sha256_of(path.read_bytes()),
                seconds=time.monotonic() - self._began,
            )
        )

    def answer(self, manifest: Manifest, path: Path) -> None:
        """Announce an answer, the next revision, unless it is the newest one again."""
        newest = self._revision
        if newest is not None and newest.manifest_sha256 == manifest.sha256:
            return
        number = 1 if newest is None else newest.revision + 1
        self._revision = Revision.of(manifest, revision=number)
        self._emit(Answered(step=self.step, answer=self._revision, path=str(path)))

    def log(self, detail: str) -> None:
        """Tell something that a person should know."""
        self._emit(Logged(step=self.step, detail=storable_text(detail)))
