"""Distil the original into a checkpoint, in exactly its bytes.

`scales` trains scales, biases and what is stored as floats with AdamW; codes stay. The loss is the
forward KL on rollouts of the original. The best state on rollouts that were not trained on is kept,
and the checkpoint is only touched when that is better than before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from bitbudget.app.core.requests import Recover
from bitbudget.workers.recovery.patch import RECORD, finish, patch
from bitbudget.workers.recovery.state import StateFolder
from bitbudget.workers.recovery.training import LOOKS, PATIENCE, Training

__all__ = ["Ended", "Recovery", "recover"]

_LOOK_SHARE = 0.1
"""The most of the time that is spent on looks, each as long as the last."""


class Ended(StrEnum):
    """Why a training ended."""

    TIME = "time"
    STALE = "stale"
    NOT_FINITE = "not finite"
    NOTHING = "nothing to train"


@dataclass(frozen=True, slots=True)
class Recovery:
    """KL in nats per token before and after on rollouts not trained on, and what was done.

    `tokens` were trained on, each perhaps several times; `floats` arrays that are stored
    unquantized were trained, too. `seconds` are those of the training, `cpu_seconds` those of all
    threads in it.
    """

    how: str
    before: float
    after: float
    steps: int
    seconds: float
    cpu_seconds: float
    changed: bool
    tokens: int
    floats: int
    ended: Ended


def recover(
    checkpoint: Path,
    reference: Path,
    how: Recover,
    *,
    seconds: float,
    steps: int | None = None,
    seed: int = 0,
    streamed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Recovery:
    """Train `checkpoint` towards `reference` for at most `seconds`; never worse than before.

    With `steps`, too, it ends at whichever is reached first. `streamed` holds one layer's weights
    at a time. A killed run goes on where the training was last looked at.

    What was done stands in the checkpoint's `recovery.json`. The time begins when the first
    rollouts to train on are written, so that a slow machine trains, too.

    `progress` is told seconds spent and allowed.
    """
    finish(checkpoint)
    (checkpoint / RECORD).unlink(missing_ok=True)
    training = Training(checkpoint, reference, seed=seed, streamed=streamed)
    files = [(f.name, f.stat().st_mtime_ns) for f in sorted(checkpoint.glob("*.safetensors"))]
    key = {"how": how, "seconds": seconds, "seed": seed, "files": files}
    kept = StateFolder(checkpoint, key)
    clock = _begun(training, kept, _Clock(seconds, steps, progress))
    ended = _train(training, clock, kept)
    changed = training.best < training.first
    found = Recovery(
        how.value,
        training.first,
        training.best,
        training.steps,
        clock.spent,
        clock.cpu,
        changed,
        0 if training.rollouts is None else training.rollouts.tokens.size,
        len(training.student.floats),
        ended,
    )
    record = (json.dumps(asdict(found), indent=1) + "\n").encode()
    patch(checkpoint, training.arrays() if changed else {}, record)
    return found


class _Clock:
    """What was spent of seconds and, where they are limited, of steps, by all runs together."""

    def __init__(
        self,
        seconds: float,
        steps: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.seconds, self.steps, self.progress = seconds, steps, progress
        self.began, self.cpu_began = time.monotonic(), time.process_time()

    def set(self, spent: float, cpu: float) -> None:
        """Begin with what was spent before."""
        self.began, self.cpu_began = time.monotonic() - spent, time.process_time() - cpu

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    def share(self, steps: int) -> float:
        """Return which part of the whole is gone after `steps`."""
        of_steps = 0.0 if self.steps is None else steps / self.steps
        return max(of_steps, self.spent / self.seconds)

    @property
    def cpu(self) -> float:
        return time.process_time() - self.cpu_began

    def tell(self) -> None:
        if self.progress is not None:
            self.progress(min(int(self.spent), int(self.seconds)), int(self.seconds))


def _begun(training: Training, kept: StateFolder, clock: _Clock) -> _Clock:
    """Go on from what a killed run left, else write text to train on, and start the clock."""
    if clock.seconds > 0 and (state := kept.read()) is not None:
        arrays, numbers = state
        training.resume(arrays, numbers)
        clock.set(numbers["spent"], numbers["cpu"])
        return clock
    if clock.seconds > 0:
        training.prepare()
    clock.set(0, 0)
    return clock


def _train(training: Training, clock: _Clock, kept: StateFolder) -> Ended:
    """Train until the time is over, less that of the last look, and return why it ended."""
    if not training.trainable:
        return Ended.NOTHING
    looked, step = clock.spent, 0.0
    look = training.look_seconds
    while clock.spent + step + look < clock.seconds and training.steps != clock.steps:
        before = clock.spent
        training.step(clock.share(training.steps))
        step = clock.spent - before
        clock.tell()
        if not training.finite:
            break
        if clock.spent - looked >= max(clock.seconds / LOOKS, look / _LOOK_SHARE):
            training.look()
            arrays, numbers = training.state()
            kept.write(arrays, {**numbers, "spent": clock.spent, "cpu": clock.cpu})
            looked, look = clock.spent, training.look_seconds
            if training.stale >= PATIENCE:
                return Ended.STALE
    if training.steps > training.looked:
        training.look()
    return Ended.TIME if training.finite else Ended.NOT_FINITE
