"""How far a task is as a whole, by its steps' estimated seconds and the parts of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bitbudget.app.contract.steps import Step, Work

__all__ = ["Fractions"]


@dataclass(frozen=True, slots=True)
class _Part:
    """From where to where of the step a part goes, and up to where it is divided further."""

    begin: float
    at: float
    end: float


class Fractions:
    """What is done of the step at work and of the whole task, each from 0 to 1 and never falling.

    What is left of the task is divided among the steps to come by their seconds; when more is known
    of the work, or a step turns out not to be needed, the rest is divided anew.

        fractions = Fractions([Step.FETCH, Step.MEASURE], Work())
        fractions.begin(Step.FETCH)
        fractions.advance(3, 4)
    """

    def __init__(self, steps: Sequence[Step], work: Work) -> None:
        self.work = work
        self.of_step = 0.0
        self._to_come = list(steps)
        self._now: Step | None = None
        self._finished_s = 0.0
        self._span = (0.0, 0.0)
        self._part = _Part(0.0, 0.0, 1.0)

    @property
    def of_job(self) -> float:
        """What is done of the whole task."""
        before, after = self._span
        return min(1.0, before + (after - before) * self.of_step)

    def begin(self, step: Step) -> None:
        """Let `step` begin; ValueError unless it stands after those that began, and is planned."""
        if step not in self._to_come:
            planned = ", ".join(self._to_come) or "none"
            msg = f"the step {step} begins, and those to come are {planned}"
            raise ValueError(msg)
        self._to_come = self._to_come[self._to_come.index(step) :]
        seconds = [each.seconds(self.work) for each in self._to_come]
        before = self._span[1]
        self._span = before, before + (1 - before) * seconds[0] / sum(seconds)
        self._to_come, self._now = self._to_come[1:], step
        self._part, self.of_step = _Part(0.0, 0.0, 1.0), 0.0

    def advance(self, done: float, total: float) -> None:
        """Tell what is done of the part at work."""
        rest = self._part
        share = min(1.0, done / total) if total > 0 else 0.0
        self.of_step = max(self.of_step, rest.at + (rest.end - rest.at) * share)

    def end(self) -> None:
        """Let the step at work be done."""
        self.of_step = 1.0
        self._finished_s += 0.0 if self._now is None else self._now.seconds(self.work)
        self._now = None

    @property
    def seconds_done(self) -> float:
        """What is done of the task, in seconds as they were estimated."""
        now = 0.0 if self._now is None else self._now.seconds(self.work) * self.of_step
        return self._finished_s + now

    @property
    def seconds_left(self) -> float:
        """What is left of the task, in seconds as they are estimated."""
        now = 0.0 if self._now is None else self._now.seconds(self.work) * (1 - self.of_step)
        return now + sum(step.seconds(self.work) for step in self._to_come)

    @contextmanager
    def part(self, share: float) -> Iterator[None]:
        """Let what is told within the block be `share` of the part around it.

        What is told after the block is then of the rest of the part around it.
        """
        outer = self._part
        end = min(outer.end, outer.at + share * (outer.end - outer.begin))
        self._part = _Part(outer.at, outer.at, end)
        yield
        self.of_step = max(self.of_step, end)
        self._part = replace(outer, at=end)
