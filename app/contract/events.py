"""Events: what a child process tells of its task, and what a worker passes on to the server."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from bitbudget.app.contract.messages import Amount, Integer, Message, Share
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.requests import Number

__all__ = ["Event", "Problem", "Progress"]


class Problem(Message):
    """An RFC 9457 problem, as the server answers it and a worker reports it."""

    type: str
    title: str
    status: Integer
    detail: str
    fields: dict[str, Any] = Field(default_factory=dict)
    exit_code: Integer = 1


class Event(Message):
    """One line of a child's progress.

    `progress` counts `done` of `total` in `unit` (bytes, tokens, ...). `artifact` names a file that
    the step finished (`path` on this machine, its SHA-256). `finished` carries the task's result.
    `step_fraction` and `job_fraction` say how far the step and the whole task are: they never fall,
    while `done` starts anew with each part of a step.
    """

    kind: Literal["started", "progress", "artifact", "log", "finished", "failed"]
    step: Step | None = None
    done: int = 0
    total: int = 0
    unit: str = "bytes"
    detail: str = ""
    seconds: float = 0.0
    step_fraction: float = 0.0
    job_fraction: float = 0.0
    name: str = ""
    path: str = ""
    sha256: str = ""
    result: dict[str, Any] | None = None
    problem: Problem | None = None


class Progress(Message):
    """How far a step is: `done` of `total` in `unit`."""

    step: Step
    done: Amount = 0
    total: Amount = 0
    unit: str = Field("bytes", max_length=32)
    detail: str = Field("", max_length=512)
    seconds: Annotated[float, Field(ge=0), Number] = Field(
        0.0, description="Time in this step so far."
    )
    step_fraction: Share = Field(0.0, description="Of this step, by the parts it has.")
    job_fraction: Share = Field(0.0, description="Of the whole job, by the weight of its steps.")
