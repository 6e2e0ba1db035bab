"""The steps of a job, declared once.

Worker, events, command line, lease progress and pages read `Step`: an entry here and a module of
the same name under `workers/pipeline/steps` are what a step is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from bitbudget.app.core.requests import Deliver, JobRequest, Recover, Rotation

__all__ = ["Step", "Work", "possible_steps", "steps_of"]


@dataclass(frozen=True, slots=True)
class Work:
    """How much there is to do, as far as it is known: what the weight of a step depends on."""

    weights: int = 100_000_000
    """Of the model, in all its modules."""
    download_bytes: int = 0
    tokens: int = 0
    """That sensitivity is measured on; none where weights alone are measured."""
    variants: int = 1
    """Models that are measured: as it is, and rotated."""
    baseline: bool = False
    recover_seconds: float = 0.0


_PASS: Final = 2.0
"""Operations per weight and token of a forward pass: a multiplication and an addition."""
_PER_SECOND: Final = 2e10
"""Operations that a small machine does in a second, to weigh what is bound by time or network."""
_PER_BYTE: Final = _PER_SECOND / 5e7
"""Operations in the time that a byte of a download takes at 50 MB/s."""
_SWEEP: Final = 100.0
"""Operations per weight that measure its errors in all formats without statistics."""
_CURVES: Final = 20_000.0
"""The same with the encoder that is deployed, statistics given."""
_EVALUATED_TOKENS: Final = 32 * 256
_BENCHMARKED_TOKENS: Final = 128 + 64
_OVERHEAD: Final = 1.0 * _PER_SECOND
"""Of any step: opening files, a look into caches."""


def _measure(work: Work) -> float:
    by_running = 6 * _PASS * work.tokens + _CURVES if work.tokens else _SWEEP
    return work.variants * work.weights * by_running


def _quantize(work: Work) -> float:
    in_sequence = 2 * _PASS * work.tokens + _CURVES / 20 if work.tokens else 0.0
    return work.weights * (_SWEEP + in_sequence)


def _evaluate(work: Work) -> float:
    checkpoints = 3 if work.baseline else 1
    original = 2 * _PASS * _EVALUATED_TOKENS * work.weights
    return original + checkpoints * (_PASS * _EVALUATED_TOKENS * work.weights + _quantize(work))


class Step(StrEnum):
    """A step of a job; members stand in the order in which steps run.

    `label` says to people what it does. `needs` and `makes` name what it takes from earlier steps
    and leaves to later ones; what ends in `.json` is announced as an artifact. `is_asked_for` tells
    whether a request wants it (None: that shows once there is an allocation). `weight` estimates
    how long it takes beside others, in operations, to divide a bar by.

        Step("measure").makes == ("measurement.json",)
    """

    label: str
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    is_asked_for: Callable[[JobRequest], bool | None]
    weight: Callable[[Work], float]

    def __new__(  # noqa: PLR0917 - a member is a tuple
        cls,
        name: str,
        label: str = "",
        needs: tuple[str, ...] = (),
        makes: tuple[str, ...] = (),
        is_asked_for: Callable[[JobRequest], bool | None] = lambda _: True,
        weight: Callable[[Work], float] = lambda _: 0.0,
    ) -> Self:
        """Return the member called `name`, which is its value on the wire."""
        step = str.__new__(cls, name)
        step._value_ = name
        step.label, step.needs, step.makes, step.is_asked_for = label, needs, makes, is_asked_for
        step.weight = lambda work: _OVERHEAD + weight(work)
        return step

    FETCH = (
        "fetch",
        "find or download the model",
        (),
        ("model",),
        lambda _: True,
        lambda work: _PER_BYTE * work.download_bytes,
    )
    INVENTORY = (
        "inventory",
        "list its modules",
        ("model",),
        ("inventory.json",),
        lambda _: True,
        lambda work: 0.0 if work.tokens else _SWEEP * work.weights,
    )
    ROTATE = (
        "rotate",
        "rotate weights",
        ("model", "inventory.json"),
        ("inventory.json", "rotated model"),
        lambda request: request.rotation is not Rotation.NONE,
        lambda work: 500 * work.weights,
    )
    MEASURE = (
        "measure",
        "measure what each format of each module costs",
        ("model", "inventory.json"),
        ("measurement.json",),
        lambda _: True,
        _measure,
    )
    ALLOCATE = (
        "allocate",
        "choose formats within the budget",
        ("measurement.json",),
        ("inventory.json", "measurement.json", "manifest.json"),
    )
    RELINEARIZE = (
        "relinearize",
        "measure errors together and choose again",
        ("model", "measurement.json", "manifest.json"),
        ("manifest.json",),
        lambda request: request.relinearize,
        lambda work: 100 * _PASS * 24 * 256 * work.weights,
    )
    QUANTIZE = (
        "quantize",
        "write the checkpoint",
        ("model", "manifest.json"),
        ("checkpoint",),
        lambda request: request.deliver is Deliver.CHECKPOINT,
        _quantize,
    )
    RECOVER = (
        "recover",
        "train the checkpoint",
        ("model", "checkpoint"),
        ("checkpoint",),
        lambda request: (
            request.recover is not Recover.NONE and request.deliver is Deliver.CHECKPOINT
        ),
        lambda work: work.recover_seconds * _PER_SECOND,
    )
    EVALUATE = (
        "evaluate",
        "compare the checkpoint with the original",
        ("model", "checkpoint"),
        ("evaluation.json", "measurement.json"),
        lambda request: request.deliver is Deliver.CHECKPOINT,
        _evaluate,
    )
    BENCHMARK = (
        "benchmark",
        "time the checkpoint",
        ("checkpoint",),
        ("benchmark.json",),
        lambda request: request.deliver is Deliver.CHECKPOINT,
        lambda work: 4 * _PASS * _BENCHMARKED_TOKENS * work.weights,
    )


def steps_of(request: JobRequest) -> tuple[Step, ...]:
    """Return the steps that a job goes through for sure, in order."""
    return tuple(step for step in Step if step.is_asked_for(request))


def possible_steps(request: JobRequest) -> tuple[Step, ...]:
    """Return those steps and the ones of which it shows later whether they are needed."""
    return tuple(step for step in Step if step.is_asked_for(request) is not False)
