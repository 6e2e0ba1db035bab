"""Events: what a child process tells of its task, and what a worker passes on to the server."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from bitbudget.app.contract.messages import Amount, Integer, Message
from bitbudget.app.core.requests import Number

__all__ = ["Event", "Problem", "Progress", "Stage"]


class Stage(StrEnum):
    """The stages of a job, in order."""

    FETCH = "fetch"
    INVENTORY = "inventory"
    MEASURE = "measure"
    ALLOCATE = "allocate"
    QUANTIZE = "quantize"
    EVALUATE = "evaluate"
    BENCHMARK = "benchmark"


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
    the stage finished (`path` on this machine, its SHA-256). `finished` carries the task's result.
    """

    kind: Literal["started", "progress", "artifact", "log", "finished", "failed"]
    stage: Stage | None = None
    done: int = 0
    total: int = 0
    unit: str = "bytes"
    detail: str = ""
    seconds: float = 0.0
    name: str = ""
    path: str = ""
    sha256: str = ""
    result: dict[str, Any] | None = None
    problem: Problem | None = None


class Progress(Message):
    """How far a stage is: `done` of `total` in `unit`."""

    stage: Stage
    done: Amount = 0
    total: Amount = 0
    unit: str = Field("bytes", max_length=32)
    detail: str = Field("", max_length=512)
    seconds: Annotated[float, Field(ge=0), Number] = Field(
        0.0, description="Time in this stage so far."
    )
