"""One checkpoint recovered in one way within some processor time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import mlx.core as mx
from mlx import optimizers

from benchmarks.recovery.codes import changed_codes
from benchmarks.recovery.flips import Flips
from benchmarks.recovery.gradients import WeightGradients, rollout_batches
from benchmarks.recovery.newton import NewtonStep
from benchmarks.recovery.straight_through import StraightThrough
from bitbudget.app.core.formats import Format
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.recovery.stored import AffineStored, Stored
from bitbudget.workers.recovery.training import FIRST_SHARE, LOOKS, Training

__all__ = ["SIZES", "Arm"]

SIZES: Final = (0.1, 0.05, 0.025)
"""Of the Newton step of all modules at once."""
SHARES: Final = (0.01, 0.002, 0.0005)
"""Of all codes, that flip at once."""


@dataclass
class Arm:
    """A training that goes one way, for instance "newton scales" or "ste:0.02".

    Parts are done in turn: `scales` as the product does, `newton` and `flips` once each and only
    where KL on the rollouts that are not trained on falls. Trainings share what time is left.
    """

    training: Training
    formats: Mapping[str, Format]
    statistics: Mapping[str, ModuleStatistics]
    seconds: float
    batches: int
    began: float = field(default_factory=time.process_time)

    @property
    def spent(self) -> float:
        """Processor seconds of all threads since it began."""
        return time.process_time() - self.began

    def go(self, way: str) -> list[str]:
        """Do the parts of `way`, and return a line on each."""
        parts = way.split()
        rounds = sum(part == "scales" for part in parts) or 1
        done, trained = [], 0
        for part in parts:
            if part.startswith("ste:"):
                done.append(self.straight_through(float(part.removeprefix("ste:"))))
            elif part == "scales":
                trained += 1
                done.append(self.scales(self.seconds * trained / rounds, rounds))
            elif self.spent < self.seconds:
                done.append(self.codes(part, max(self.batches // rounds, 4)))
        return done

    def scales(self, until: float, rounds: int = 1) -> str:
        """Train what is stored as floats until so many seconds are spent, and keep the best."""
        line = f"scales {self._train(until, LOOKS // rounds)}"
        self._fold()
        return line

    def straight_through(self, rate: float) -> str:
        """Train codes, too, at so many steps of their grid a step."""
        training = self.training
        student = StraightThrough(training.student, self.formats, rate)
        training.student = student
        training.values = training.kept = training.mean = student.values()
        line = self._train(self.seconds, LOOKS)
        return f"{student.changed(training.kept)} codes, {line}"

    def _train(self, until: float, looks: int) -> str:
        training, before = self.training, self.training.best
        start, looked = self.spent, 0
        while self.spent < until and training.finite:
            share = (self.spent - start) / max(until - start, 1e-9)
            training.step(share)
            if share * looks >= looked + 1:
                training.look()
                looked += 1
        if training.steps > training.looked:
            training.look()
        return f"{training.steps} steps {training.best / before:.3f}"

    def codes(self, how: str, batches: int) -> str:
        """Move codes by the best size of a step, if any is better than none."""
        training, before = self.training, self.training.best
        stored = training.student.stored
        gradients = WeightGradients.at(training, rollout_batches(training, batches))
        known = (self.formats, self.statistics, gradients)
        step = NewtonStep(*known) if how == "newton" else Flips.of(*known, stored)
        sizes: Iterable[float] = SIZES if how == "newton" else SHARES
        taken = "none"
        for size in sizes:
            moved = step.moved(stored, size)
            if (kl := self.kl_of(moved)) < training.best:
                training.best, training.student.stored = kl, moved
                taken = f"{size:g}, {changed_codes(stored, moved)} codes"
        return f"{how} ({taken}) {training.best / before:.3f}"

    def kl_of(self, stored: Mapping[str, Stored]) -> float:
        """Return KL on the rollouts that are not trained on with this stored."""
        student = self.training.student
        before, student.stored = student.stored, dict(stored)
        model = student.apply(student.values(), stored=True)
        found = self.training.judge.sets(model, "it")["rollouts"]
        student.stored = before
        return float(found["kl_nats_per_token"])

    def model(self) -> Any:
        """Return the float32 model of the best values."""
        return self.training.student.apply(self.training.kept, stored=True)

    def _fold(self) -> None:
        """Store the best values, so that what comes next begins with none."""
        training, student = self.training, self.training.student
        kept = {n: a.astype(mx.float32) for n, a in student.as_stored(training.kept)}
        student.stored = {
            path: replace(own, scales=kept[f"{path}.scales"], biases=kept[f"{path}.biases"])
            for path, own in student.stored.items()
            if isinstance(own, AffineStored)
        }
        student.floats = {n: replace(own, value=kept[n]) for n, own in student.floats.items()}
        training.values = training.kept = training.mean = student.values()
        training.adam = optimizers.AdamW(0.0, betas=[0.9, 0.98], weight_decay=0.0)
        training.steps = training.looked = training.stale = 0
        training.share = FIRST_SHARE
