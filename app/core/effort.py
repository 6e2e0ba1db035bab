"""How much work goes into an answer: what is measured, how finely, and what is tried afterwards.

Everything that an effort decides stands in `EFFORTS`; `docs/effort.md` shows it as a table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bitbudget.app.core.encoders import Encoder, usable_encoder
from bitbudget.app.core.recover import Recover
from bitbudget.app.core.sensitivity import Sensitivity

__all__ = [
    "ALLOCATIONS",
    "EFFORTS",
    "LARGE_WEIGHTS",
    "PROBING_WINDOWS",
    "ROWS_AT_ONCE",
    "Effort",
    "EffortPlan",
    "calibration_windows",
    "efforts_up_to",
    "encoder_at",
    "measured_rivals",
    "measures_rival",
    "rollout_count",
    "verifying_windows",
    "with_effort",
    "writes_rollouts_beside",
]

LARGE_WEIGHTS: Final = 50_000_000
"""Above it coding a model takes longer than running it does, and is done as rarely as can be."""

PROBING_WINDOWS: Final = 8
"""Windows that random allocations, and single groups of modules, are measured on."""
ALLOCATIONS: Final = 8
"""Random ones that are measured to say how well curves predict."""
ROWS_AT_ONCE: Final = 64
"""Sequences that a model writes side by side: a step reads all weights, however many go on by one.
"""
_MOST_VERIFYING: Final = 32
_FEWEST_VERIFYING: Final = 16


class Effort(StrEnum):
    """How much work goes into an answer; members stand from the least to the most."""

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"


@dataclass(frozen=True, slots=True)
class EffortPlan:
    """What one effort does.

    `encoder` and `recover` are defaults, which a request may state otherwise. Sensitivity is
    measured on `fewest_tokens` to `most_tokens` calibration tokens in windows of `window_tokens`:
    on a CPU as many as `weight_tokens` (weights times tokens) allow, on a GPU the most. The curve
    of a large matrix is estimated from rows with `row_weights` weights; None codes every module
    whole in every format. `verifies` says whether whole checkpoints are measured, which calibrates
    the prediction. A finished checkpoint is compared with the original on `evaluated_windows`
    windows that the original wrote, as long as the others. It is timed for `benchmark_seconds` at
    most where there is no GPU, and for 0 nowhere: on a CPU reading it once takes longer than all
    else that a quick answer does.

        EFFORTS[Effort.QUICK].encoder  # Encoder.CAREFUL
    """

    summary: str
    encoder: Encoder
    fewest_tokens: int
    most_tokens: int
    weight_tokens: float
    window_tokens: int
    row_weights: int | None
    verifies: bool
    recover: Recover
    evaluated_windows: int
    benchmark_seconds: float


EFFORTS: Final[Mapping[Effort, EffortPlan]] = {
    Effort.QUICK: EffortPlan(
        summary="a first answer, whose prediction was checked on no checkpoint",
        encoder=Encoder.CAREFUL,
        fewest_tokens=512,
        most_tokens=2048,
        weight_tokens=1e10,
        window_tokens=64,
        row_weights=1 << 15,
        verifies=False,
        recover=Recover.NONE,
        evaluated_windows=16,
        benchmark_seconds=0.0,
    ),
    Effort.STANDARD: EffortPlan(
        summary="error feedback, and a prediction calibrated on whole checkpoints",
        encoder=Encoder.YAQA,
        fewest_tokens=4096,
        most_tokens=16_384,
        weight_tokens=1.2e11,
        window_tokens=256,
        row_weights=1 << 20,
        verifies=True,
        recover=Recover.NONE,
        evaluated_windows=32,
        benchmark_seconds=10.0,
    ),
    Effort.THOROUGH: EffortPlan(
        summary="every module coded in every format, four times the tokens, and recovery",
        encoder=Encoder.YAQA,
        fewest_tokens=16_384,
        most_tokens=65_536,
        weight_tokens=4.8e11,
        window_tokens=256,
        row_weights=None,
        verifies=True,
        recover=Recover.SCALES,
        evaluated_windows=32,
        benchmark_seconds=10.0,
    ),
}


def calibration_windows(effort: Effort, weights: int, *, on_gpu: bool = False) -> int:
    """Return how many windows a model with so many weights is measured on.

    >>> calibration_windows(Effort.QUICK, 135_000_000)
    8
    """
    plan = EFFORTS[effort]
    affordable = plan.most_tokens if on_gpu else int(plan.weight_tokens / max(weights, 1))
    tokens = min(plan.most_tokens, max(plan.fewest_tokens, affordable))
    return max(1, tokens // plan.window_tokens)


def verifying_windows(weights: int) -> int:
    """Return how many windows predictions for a model with so many weights are verified on.

    Of a large model half as many: the level is then known to 8 % instead of 6 % (one sigma), and
    the interval of a prediction says so.

    >>> verifying_windows(135_000_000)
    16
    """
    return _FEWEST_VERIFYING if weights > LARGE_WEIGHTS else _MOST_VERIFYING


def rollout_count(effort: Effort, weights: int) -> int:
    """Return how many windows a model with so many weights writes to be compared on.

    >>> rollout_count(Effort.STANDARD, 135_000_000)
    48
    """
    plan = EFFORTS[effort]
    return plan.evaluated_windows + (verifying_windows(weights) if plan.verifies else 0)


def writes_rollouts_beside(effort: Effort, windows: int, rollouts: int) -> bool:
    """Return whether so many rollouts are written side by side with the calibration windows.

    That is where a measurement needs them, and all are few enough.
    """
    return EFFORTS[effort].verifies and windows + rollouts <= ROWS_AT_ONCE


def measures_rival(effort: Effort, weights: int) -> bool:
    """Return whether a checkpoint is made only to be measured at the bytes of uniform precision.

    Of a large model it would cost as much as the one that is asked for, and is predicted.
    """
    return effort is Effort.THOROUGH or weights <= LARGE_WEIGHTS


def measured_rivals(effort: Effort, weights: int) -> int:
    """Return how many checkpoints a comparison with uniform precision makes and measures.

    >>> measured_rivals(Effort.STANDARD, 135_000_000)
    1
    """
    return 1 + measures_rival(effort, weights)


def with_effort(given: object, names: Collection[str]) -> object:
    """Return the fields of a request with those of `names` that it leaves out, as its effort says.

    With `max_minutes` and no effort stated it is the most there is, of which the time may allow
    less. What is no mapping, or has no known effort, is returned as it is: validation names the
    mistake.
    """
    if not isinstance(given, Mapping):
        return given
    limited = given.get("max_minutes") is not None
    effort = given.get("effort", Effort.THOROUGH if limited else Effort.STANDARD)
    if effort not in set(Effort):
        return given
    plan = EFFORTS[Effort(effort)]
    return {name: getattr(plan, name) for name in names} | dict(given) | {"effort": effort}


def encoder_at(
    effort: Effort, encoder: Encoder, *, before: Effort, sensitivity: Sensitivity
) -> Encoder:
    """Return the encoder at another effort: its default where it was the default before.

    >>> encoder_at(
    ...     Effort.QUICK, Encoder.YAQA, before=Effort.STANDARD, sensitivity=Sensitivity.FISHER
    ... ).value
    'careful'
    """
    if encoder is not usable_encoder(EFFORTS[before].encoder, sensitivity):
        return encoder
    return usable_encoder(EFFORTS[effort].encoder, sensitivity)


def efforts_up_to(most: Effort) -> tuple[Effort, ...]:
    """Return the efforts that are no more work than `most`, the most first."""
    efforts = tuple(Effort)
    return efforts[efforts.index(most) :: -1]
