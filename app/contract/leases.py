"""Leases: how workers and server agree on who does which job."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from bitbudget.app.contract.events import Problem, Progress
from bitbudget.app.contract.messages import Amount, Attempt, Line, Message, Text
from bitbudget.app.contract.reports import JobResult
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.app.core.requests import JobRequest, Number

__all__ = [
    "LOG_LINES_AT_ONCE",
    "MOST_LOG_LINES",
    "Capabilities",
    "LeaseClaim",
    "LeaseGrant",
    "LeaseOutcome",
    "LeaseRenewal",
    "LeaseResult",
    "LeaseStatus",
    "LogLine",
    "StoredArtifact",
    "WorkerRegistration",
    "WorkerWelcome",
]


class Capabilities(Message):
    """What a worker's machine is and can do."""

    chip: Annotated[Line, Field(max_length=128)] = Field(description="Such as Apple M4 Pro.")
    memory_bytes: Amount
    backend: Literal["metal", "cpu", "cuda"]
    mlx_version: Annotated[Line, Field(max_length=64)]
    mlx_lm_version: Annotated[Line, Field(max_length=64)] = ""
    platform: Annotated[Line, Field(max_length=128)] = ""
    speed: MachineSpeed | None = Field(None, description="Where it was measured.")
    publishes_to: Annotated[Line, Field(max_length=96)] = Field(
        "", description="The Hub namespace that it may publish checkpoints to; none by default."
    )


class WorkerRegistration(Message):
    """A worker introduces itself."""

    name: Annotated[Line, Field(min_length=1, max_length=128)]
    capabilities: Capabilities


class WorkerWelcome(Message):
    """What a registered worker is told; `token` is shown this once."""

    worker_id: str
    token: str = Field(description="Bearer token for claiming leases.")
    lease_seconds: float
    renew_seconds: float
    poll_seconds: float


class LeaseClaim(Message):
    """A worker asks for a job."""

    worker_id: str = Field(max_length=64)


class StoredArtifact(Message):
    """A file that an attempt uploaded, or that the server already had for this job."""

    name: str
    sha256: str
    bytes: int


class LeaseGrant(Message):
    """A job for one attempt; what earlier attempts uploaded need not be made again."""

    lease_id: str
    job_id: str
    attempt: int
    token: str = Field(description="Bearer token for every write of this lease.")
    lease_until: datetime
    lease_seconds: float
    renew_seconds: float
    request: JobRequest
    artifacts: tuple[StoredArtifact, ...] = ()


MOST_LOG_LINES: Final = 10_000
"""Lines of one attempt that are kept."""
LOG_LINES_AT_ONCE: Final = 64


class LogLine(Message):
    """Something the work tells people; `number` counts the lines of an attempt from 1.

    A line that is sent again, because an answer was lost, has the same number and is kept once.
    """

    number: Annotated[int, Field(ge=1, le=MOST_LOG_LINES), Number]
    step: Step | None = None
    detail: Text


class LeaseRenewal(Message):
    """The worker is alive, how far it is, and what it has to say."""

    attempt: Attempt
    progress: Progress | None = None
    log: Annotated[tuple[LogLine, ...], Field(max_length=LOG_LINES_AT_ONCE)] = ()


class LeaseStatus(Message):
    """Until when the lease now holds, and whether the user wants the job stopped."""

    lease_until: datetime
    cancel: bool


class LeaseOutcome(StrEnum):
    """How an attempt ended.

    `failed` is final: the input is at fault. `crashed` and `expired` are tried again, three
    attempts at most; `released` (the worker is going away) does not count as one of them.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CRASHED = "crashed"
    RELEASED = "released"
    EXPIRED = "expired"


_FAILURE_HAS_PROBLEM: JsonDict = {
    "anyOf": [
        {"properties": {"outcome": {"not": {"const": "failed"}}}},
        {"required": ["problem"], "properties": {"problem": {"type": "object"}}},
    ]
}


class LeaseResult(Message):
    """The end of an attempt; the same result sent twice is accepted twice."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_FAILURE_HAS_PROBLEM)

    attempt: Attempt
    outcome: Literal[
        LeaseOutcome.SUCCEEDED,
        LeaseOutcome.FAILED,
        LeaseOutcome.CANCELLED,
        LeaseOutcome.CRASHED,
        LeaseOutcome.RELEASED,
    ]
    result: JobResult | None = None
    problem: Problem | None = Field(None, description="Required when the outcome is failed.")

    @model_validator(mode="after")
    def _failure_has_problem(self) -> LeaseResult:
        if self.outcome is LeaseOutcome.FAILED and self.problem is None:
            msg = "say in `problem` why the attempt failed"
            raise ValueError(msg)
        return self
