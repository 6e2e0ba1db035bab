"""Events: what a child process tells of its task, one JSON line each.

Each kind is a model of its own. The last event of a task is `finished` or `failed`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.messages import Amount, Line, Message, Path, Quantity, Share, Text
from bitbudget.app.contract.problems import Problem, ProblemFields
from bitbudget.app.contract.reports import (
    Evaluation,
    FitResult,
    ImportedMeasurement,
    JobResult,
    MeasureResult,
    QuantizeResult,
    Revision,
    SpeedResult,
    UploadResult,
)
from bitbudget.app.contract.serving_reports import ActivationReport, DraftReport
from bitbudget.app.contract.steps import Step
from bitbudget.app.contract.texts import TextComparison

__all__ = [
    "EVENT",
    "Answered",
    "ArtifactMade",
    "Event",
    "Failed",
    "Finished",
    "Logged",
    "Problem",
    "ProblemFields",
    "Progress",
    "Progressed",
    "Started",
    "TaskResult",
]


class Progress(Message):
    """How far a step is: `done` of `total` in `unit` (bytes, tokens, ...).

    `step_fraction` and `job_fraction` never fall; `done` starts anew with each part of a step.
    """

    step: Step
    done: Amount = 0
    total: Amount = 0
    unit: Annotated[Line, Field(max_length=32)] = "bytes"
    detail: Line = ""
    seconds: Quantity = Field(0.0, description="Time in this step so far.")
    seconds_left: Quantity | None = Field(
        None, description="Until the whole job is done, estimated."
    )
    step_fraction: Share = Field(0.0, description="Of this step, by the parts it has.")
    job_fraction: Share = Field(0.0, description="Of the whole job, by the weight of its steps.")


class Started(Message):
    """A step begins."""

    kind: Literal["started"] = "started"
    step: Step
    job_fraction: Share = 0.0


class Progressed(Progress):
    """A step is further than before."""

    kind: Literal["progress"] = "progress"


class ArtifactMade(Message):
    """A step finished a file: its name, its place on this machine, its digest."""

    kind: Literal["artifact"] = "artifact"
    step: Step
    name: Line
    path: Path
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    seconds: Quantity = 0.0


class Answered(Message):
    """There is an answer, or a refined one; `path` is the file or the address of its manifest."""

    kind: Literal["answered"] = "answered"
    step: Step | None = None
    answer: Revision
    path: Path


class Logged(Message):
    """Something that a person should know of a step."""

    kind: Literal["log"] = "log"
    step: Step | None = None
    detail: Text


TaskResult = (
    FitResult
    | MeasureResult
    | ImportedMeasurement
    | QuantizeResult
    | SpeedResult
    | UploadResult
    | JobResult
    | Evaluation
    | TextComparison
    | ActivationReport
    | DraftReport
    | Benchmark
)
"""What a task comes to: the result of its kind, told apart by the fields that each must have."""


class Finished(Message):
    """The task is done."""

    kind: Literal["finished"] = "finished"
    result: TaskResult


class Failed(Message):
    """The task cannot be done."""

    kind: Literal["failed"] = "failed"
    problem: Problem


Event = Annotated[
    Started | Progressed | ArtifactMade | Answered | Logged | Finished | Failed,
    Field(discriminator="kind"),
]
EVENT: Final[TypeAdapter[Event]] = TypeAdapter(Event)
"""Reads one line of a child process."""
