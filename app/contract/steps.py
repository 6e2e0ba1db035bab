"""The steps of a job, declared once.

Worker, events, command line, lease progress and pages read `Step`: an entry here and a module of
the same name under `workers/pipeline/steps` are what a step is.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Self

from bitbudget.app.contract.durations import (
    Work,
    benchmark_s,
    evaluation_s,
    measuring_s,
    preview_s,
    quantizing_s,
    relinearizing_s,
    sweep_s,
)
from bitbudget.app.core.effort import EFFORTS
from bitbudget.app.core.requests import Deliver, JobRequest, Recover, Rotation

__all__ = ["Step", "Work", "possible_steps", "steps_of"]


_OVERHEAD_S: Final = 1.0
"""Of any step: imports, opening files, a look into caches."""
_DOWNLOAD_BYTES_PER_SECOND: Final = 5e7
_HASHED: Final = 1.0
"""Coded weights in the time that a weight is read and hashed."""


class Step(StrEnum):
    """A step of a job; members stand in the order in which steps run.

    `label` says to people what it does. `needs` and `makes` name what it takes from earlier steps
    and leaves to later ones; what ends in `.json` is announced as an artifact. `is_asked_for` tells
    whether a request wants it (None: that shows once there is an allocation). `seconds` estimates
    how long it takes.

        Step("measure").makes == ("measurement.json",)
    """

    label: str
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    is_asked_for: Callable[[JobRequest], bool | None]
    seconds: Callable[[Work], float]

    def __new__(  # noqa: PLR0917 - a member is a tuple
        cls,
        name: str,
        label: str = "",
        needs: tuple[str, ...] = (),
        makes: tuple[str, ...] = (),
        is_asked_for: Callable[[JobRequest], bool | None] = lambda _: True,
        seconds: Callable[[Work], float] = lambda _: 0.0,
    ) -> Self:
        """Return the member called `name`, which is its value on the wire."""
        step = str.__new__(cls, name)
        step._value_ = name
        step.label, step.needs, step.makes, step.is_asked_for = label, needs, makes, is_asked_for
        step.seconds = lambda work: _OVERHEAD_S + seconds(work)
        return step

    FETCH = (
        "fetch",
        "find or download the model",
        (),
        ("model",),
        lambda _: True,
        lambda work: work.download_bytes / _DOWNLOAD_BYTES_PER_SECOND + work.coding_s(_HASHED),
    )
    INVENTORY = (
        "inventory",
        "list its modules",
        ("model",),
        ("inventory.json",),
        lambda _: True,
        lambda work: 0.0 if work.runs else sweep_s(work),
    )
    ROTATE = (
        "rotate",
        "rotate weights",
        ("model", "inventory.json"),
        ("inventory.json", "rotated model"),
        lambda request: request.rotation is not Rotation.NONE,
        lambda work: work.operations_s(500),
    )
    PREVIEW = (
        "preview",
        "give a first answer at quick effort",
        ("model", "inventory.json"),
        ("first_measurement.json", "first_manifest.json"),
        lambda request: None if request.may_preview else False,
        preview_s,
    )
    MEASURE = (
        "measure",
        "measure what each format of each module costs",
        ("model", "inventory.json"),
        ("measurement.json",),
        lambda _: True,
        measuring_s,
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
        relinearizing_s,
    )
    QUANTIZE = (
        "quantize",
        "write the checkpoint",
        ("model", "manifest.json"),
        ("checkpoint",),
        lambda request: request.deliver is Deliver.CHECKPOINT,
        quantizing_s,
    )
    RECOVER = (
        "recover",
        "train the checkpoint",
        ("model", "checkpoint"),
        ("checkpoint",),
        lambda request: (
            request.recover is not Recover.NONE and request.deliver is Deliver.CHECKPOINT
        ),
        lambda work: work.recover_seconds,
    )
    EVALUATE = (
        "evaluate",
        "compare the checkpoint with the original",
        ("model", "checkpoint"),
        ("evaluation.json", "measurement.json"),
        lambda request: request.deliver is Deliver.CHECKPOINT,
        evaluation_s,
    )
    BENCHMARK = (
        "benchmark",
        "time the checkpoint",
        ("checkpoint",),
        ("benchmark.json",),
        lambda request: (
            request.deliver is Deliver.CHECKPOINT and EFFORTS[request.effort].benchmark_seconds > 0
        ),
        benchmark_s,
    )


def steps_of(request: JobRequest) -> tuple[Step, ...]:
    """Return the steps that a job goes through for sure, in order."""
    return tuple(step for step in Step if step.is_asked_for(request))


def possible_steps(request: JobRequest) -> tuple[Step, ...]:
    """Return those steps and the ones of which it shows later whether they are needed."""
    return tuple(step for step in Step if step.is_asked_for(request) is not False)
