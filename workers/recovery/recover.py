"""Distil the original into a checkpoint, in exactly its bytes.

`scales` trains scales and biases with AdamW; `qad` (quantization-aware distillation) also moves the
weights from code to code, with Muon through a deterministic straight-through estimator. The loss is
the forward KL on rollouts of the original. The best state on rollouts that were not trained on is
kept, and the checkpoint is only touched when that is better than before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.core.requests import Recover
from workers.recovery.patch import patch
from workers.recovery.training import Training

__all__ = ["Recovery", "recover"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """KL in nats per token before and after, and whether the checkpoint was changed."""

    how: str
    before: float
    after: float
    steps: int
    seconds: float
    changed: bool


def recover(
    checkpoint: Path,
    reference: Path,
    how: Recover,
    *,
    seconds: float,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Recovery:
    """Train `checkpoint` towards `reference` for at most `seconds`; never worse than before.

    The time begins when the rollouts to train on are written, so that a slow machine trains, too.

    `progress` is told seconds spent and allowed.
    """
    training = Training(checkpoint, reference, weights=how is Recover.QAD, seed=seed)
    began = time.monotonic()
    while training.goes_on() and time.monotonic() < began + seconds:
        training.step()
        if progress is not None:
            progress(min(int(time.monotonic() - began), int(seconds)), int(seconds))
    if training.steps:
        training.look()
    changed = training.best < training.first
    if changed:
        patch(checkpoint, training.arrays())
    spent = time.monotonic() - began
    return Recovery(how.value, training.first, training.best, training.steps, spent, changed)
