"""What the API says about jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from bitbudget.app.contract.events import Problem, Progress
from bitbudget.app.contract.leases import Capabilities
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.jobs.status import EventKind, JobStatus

__all__ = ["Answer", "Job", "JobEvent", "JobReport", "JobWorker", "Page"]

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list; pass `next_cursor` as `cursor` for the next, null ends the list."""

    items: list[Item]
    next_cursor: str | None = None


class JobWorker(BaseModel):
    """The worker that has, or last had, a job."""

    id: str
    name: str
    capabilities: Capabilities


class Answer(BaseModel):
    """The allocation a job came to: the head of its manifest."""

    manifest_sha256: str
    file_bytes: int
    budget_bytes: int
    predicted_kl_nats_per_token: float
    bound: float
    gap: float
    status: str


class Job(BaseModel):
    """A job as it is now."""

    model_config = ConfigDict(extra="forbid")

    id: str
    status: JobStatus
    cancel_requested: bool
    request: JobRequest
    attempt: int = Field(description="How many times a worker took it.")
    progress: Progress | None
    worker: JobWorker | None
    measurement_id: str | None
    answer: Answer | None = Field(description="Present once a manifest can be downloaded.")
    result: dict[str, Any] | None = Field(description="What the worker reported at the end.")
    problem: Problem | None = Field(description="Why it failed.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobEvent(BaseModel):
    """One event of a job; `id` only grows and is the `id:` of the event stream."""

    id: int
    job_id: str
    kind: EventKind
    at: datetime
    data: dict[str, Any]


class JobReport(BaseModel):
    """All that is known of a job's outcome; parts a job did not come to are null."""

    job: Job
    allocation: dict[str, Any] | None = Field(description="Certificate and bytes by format.")
    evaluation: dict[str, Any] | None = Field(description="As `bitbudget evaluate --json`.")
    benchmark: dict[str, Any] | None = Field(description="As `bitbudget benchmark --json`.")
