"""Whether there is a signal to move codes by: gradients of two halves, and what one step wins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import mlx.core as mx

from benchmarks.recovery.arms import Arm
from benchmarks.recovery.gradients import WeightGradients, fresh_batches
from benchmarks.recovery.newton import NewtonStep
from bitbudget.workers.recovery.stored import AffineStored
from bitbudget.workers.recovery.training import ROWS, Training
from bitbudget.workers.running.tokens import SEQUENCE_LENGTH

__all__ = ["first_step"]

_SIZES: Final = (1.0, 0.3, 0.1, 0.05, 0.025)
_MODULES: Final = 12
"""That are stepped alone, evenly spaced over the model."""
_SEED: Final = 77


def first_step(arm: Arm, tokens: Sequence[int]) -> Iterator[str]:
    """Yield lines: offsets, cosines at so many tokens, and KL after steps over KL before."""
    training = arm.training
    yield f"weights whose original lies nearer to another code: {_away(training):.3f}"
    wanted = {count // (ROWS * SEQUENCE_LENGTH): count for count in tokens}
    cosines: list[str] = []

    def see(found: WeightGradients) -> None:
        if found.batches in wanted:
            cosines.append(f"{wanted[found.batches]}: {found.cosine():.3f}")

    batches = fresh_batches(training, max(wanted), seed=_SEED)
    gradients = WeightGradients.at(training, batches, see)
    yield f"cosine of two halves at tokens: {', '.join(cosines)}"
    step, stored = NewtonStep(arm.formats, arm.statistics, gradients), training.student.stored
    whole = [f"{size:g}: {_ratio(arm, step, size):.4f}" for size in _SIZES]
    yield f"Newton step of all modules, size and KL over before: {', '.join(whole)}"
    paths = [path for path, own in stored.items() if isinstance(own, AffineStored)]
    alone = paths[:: max(1, len(paths) // _MODULES)]
    found = {path: min(_ratio(arm, step, size, path) for size in (1.0, 0.3)) for path in alone}
    better = sum(ratio < 1 for ratio in found.values())
    yield (
        f"of one module alone, the better of sizes 1 and 0.3: {better} of {len(found)} lower KL,"
        f" {min(found.values()):.4f} the most, {sum(found.values()) / len(found):.4f} the mean"
    )


def _ratio(arm: Arm, step: NewtonStep, size: float, path: str | None = None) -> float:
    stored = arm.training.student.stored
    moved = step.moved(stored, size, None if path is None else {path})
    return arm.kl_of(moved) / arm.training.first


def _away(training: Training) -> float:
    """Return the share of weights that were not rounded to the nearest code."""
    away = total = 0.0
    originals: dict[str, Any] = dict(training.judge.original.named_modules())
    for path, own in training.student.stored.items():
        if isinstance(own, AffineStored):
            original = originals[path].weight.reshape(own.codes.shape)
            value = own.codes * own.scales[..., None] + own.biases[..., None]
            far = mx.abs(original - value) > 0.5 * mx.abs(own.scales[..., None])
            away, total = away + float(far.sum()), total + own.codes.size
    return away / max(total, 1.0)
