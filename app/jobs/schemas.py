"""What the API says about jobs."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.events import Progress
from bitbudget.app.contract.leases import Capabilities
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import Evaluation, JobResult, Revision
from bitbudget.app.core.manifest import Certificate
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.jobs.status import EventKind, JobStatus

__all__ = [
    "AllocationSummary",
    "CheckpointFile",
    "CheckpointFiles",
    "FormatShare",
    "Job",
    "JobEvent",
    "JobReport",
    "JobWorker",
]


class JobWorker(BaseModel):
    """The worker that has, or last had, a job."""

    id: str
    name: str
    capabilities: Capabilities


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
    answer: Revision | None = Field(
        description="The answer that counts now, once a manifest can be downloaded; it stays when"
        " the job is cancelled or fails."
    )
    revisions: tuple[Revision, ...] = Field(
        (),
        description="Every answer so far, the first at quick effort where there was one; the"
        " manifest of each stays downloadable by its number.",
    )
    result: JobResult | None = Field(description="What the worker reported at the end.")
    problem: Problem | None = Field(description="Why it failed.")
    unreadable: tuple[str, ...] = Field(
        (), description="Parts that are stored but cannot be read by this version of the server."
    )
    omitted: tuple[str, ...] = Field(
        (), description="Parts too long for a list, which `GET /v1/jobs/{id}` has."
    )
    tags: tuple[str, ...] = Field((), description="To find it again: `GET /v1/jobs?tag=`.")
    note: str = Field("", description="What somebody wrote about it.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobEvent(BaseModel):
    """One event of a job; `id` only grows and is the `id:` of the event stream."""

    id: int
    job_id: str
    kind: EventKind
    at: datetime
    data: dict[str, JsonValue]


class FormatShare(BaseModel):
    """How much of a checkpoint one format holds."""

    modules: int
    bytes: int


class AllocationSummary(BaseModel):
    """A manifest in the few numbers that people compare."""

    file_bytes: int
    budget_bytes: int
    bits_per_weight: float
    slack_bytes: int
    certificate: Certificate
    formats: dict[str, FormatShare]
    notes: tuple[str, ...]


class CheckpointFile(BaseModel):
    """One file of a checkpoint."""

    name: str
    bytes: int


class CheckpointFiles(BaseModel):
    """The files of a checkpoint that the server holds."""

    files: list[CheckpointFile]


class JobReport(BaseModel):
    """All that is known of a job's outcome; parts a job did not come to are null."""

    job: Job
    allocation: AllocationSummary | None = Field(description="Certificate and bytes by format.")
    evaluation: Evaluation | None = Field(description="As `bitbudget evaluate --json`.")
    benchmark: Benchmark | None = Field(description="As `bitbudget benchmark --json`.")
