"""The contract between the server, the command line and whatever does the heavy work.

Heavy work runs in a child process, `python -m workers.child`: one `Task` as JSON on its standard
input, one `Event` as a JSON line each on its standard output, the last of them `finished` or
`failed`. The worker agent runs a lease that way, the command line its local commands.

Between agent and server: `POST /v1/workers` takes a `WorkerRegistration` and answers a
`WorkerWelcome`; `POST /v1/leases` takes a `LeaseClaim` and answers a `LeaseGrant`, or 204 with
Retry-After; `PUT /v1/leases/{id}` takes a `LeaseRenewal` and answers a `LeaseStatus`; `PUT
/v1/leases/{id}/result` takes a `LeaseResult`. Every write states its attempt; once the lease is
lost it gets 410 and the attempt stops.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from app.core.formats import FormatName
from app.core.measurement import Encoder, Sensitivity, usable_encoder
from app.core.requests import JobRequest, Number, Recover, Rotation

__all__ = [
    "BenchmarkTask",
    "Capabilities",
    "EvaluateTask",
    "Event",
    "FitTask",
    "JobTask",
    "LeaseClaim",
    "LeaseGrant",
    "LeaseOutcome",
    "LeaseRenewal",
    "LeaseResult",
    "LeaseStatus",
    "MeasureTask",
    "Problem",
    "Progress",
    "QuantizeTask",
    "Stage",
    "StoredArtifact",
    "Task",
    "UploadTask",
    "WorkerRegistration",
    "WorkerWelcome",
]


_LARGEST_INTEGER: Final = 2**53
"""JSON numbers are exact up to here."""

_Amount = Annotated[int, Field(ge=0, le=_LARGEST_INTEGER), Number]
_Attempt = Annotated[int, Field(ge=1), Number]
_Integer = Annotated[int, Number]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Stage(StrEnum):
    """The stages of a job, in order."""

    FETCH = "fetch"
    INVENTORY = "inventory"
    MEASURE = "measure"
    ALLOCATE = "allocate"
    QUANTIZE = "quantize"
    EVALUATE = "evaluate"
    BENCHMARK = "benchmark"


class Problem(_Message):
    """An RFC 9457 problem, as the server answers it and a worker reports it."""

    type: str
    title: str
    status: _Integer
    detail: str
    fields: dict[str, Any] = Field(default_factory=dict)
    exit_code: _Integer = 1


class Event(_Message):
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


class _Task(_Message):
    home: str = Field(description="Folder for state and caches: BITBUDGET_HOME.")
    disk_limit_bytes: int | None = Field(
        None, ge=0, description="Most bytes of downloaded weight files to keep at once."
    )


class _ModelTask(_Task):
    model: str
    encoder: Encoder = Encoder.YAQA
    sensitivity: Sensitivity = Sensitivity.FISHER
    rotation: Rotation = Rotation.NONE
    text: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _has_what_its_encoder_needs(self) -> Self:
        self.encoder = usable_encoder(self.encoder, self.sensitivity)
        return self


class FitTask(_Task):
    """Headers only: inventory and sizes. Result: {"inventory": ..., "model": ...}."""

    kind: Literal["fit"] = "fit"
    model: str


class MeasureTask(_ModelTask):
    """Stages fetch, inventory, measure. Result: {"measurement": path, "key": sha256, ...}."""

    kind: Literal["measure"] = "measure"
    formats: tuple[FormatName, ...] | None = None
    features: Literal["default", "full"] = "default"
    cluster: str | None = None


class QuantizeTask(_Task):
    """Write the checkpoint of a manifest. Result: {"checkpoint": path, "file_bytes": int, ...}."""

    kind: Literal["quantize"] = "quantize"
    model: str
    manifest: str
    output: str
    recover: Recover = Recover.NONE
    recover_seconds: float = Field(default=300.0, ge=0)


class EvaluateTask(_Task):
    """Compare a checkpoint with its reference. Result: the report of `evaluate --json`."""

    kind: Literal["evaluate"] = "evaluate"
    checkpoint: str
    reference: str
    text: str | None = None
    rollouts: int = 0
    seed: int = 0
    tasks: tuple[str, ...] = ()
    task_folder: str | None = None
    task_limit: int | None = Field(default=None, ge=1)


class BenchmarkTask(_Task):
    """Measure speed and peak memory of a checkpoint. Result: the report of `benchmark --json`.

    Without a checkpoint the kernels alone are checked and timed.
    """

    kind: Literal["benchmark"] = "benchmark"
    checkpoint: str | None = None
    prompt_tokens: int = 512
    generate_tokens: int = 128
    kernels: bool = False


class UploadTask(_Task):
    """Publish a finished checkpoint on the Hub, as HF_ENDPOINT and HF_TOKEN say.

    Result: {"repository", "revision", "url", "files", "bytes"}.
    """

    kind: Literal["upload"] = "upload"
    checkpoint: str
    repository: str = Field(description="org/name, created when it does not exist.")
    private: bool = True


class JobTask(_Task):
    """All stages of a job, as far as `request.deliver` says.

    `output` is the checkpoint folder (default: one under `home`). Artifacts announced on the way:
    inventory.json, measurement.json, manifest.json, evaluation.json, benchmark.json.
    """

    kind: Literal["job"] = "job"
    request: JobRequest
    output: str | None = None
    baseline: bool = Field(
        default=False, description="Also evaluate uniform 4-bit g64 at the nearest bytes."
    )
    measurement: str | None = Field(
        None, description="A measurement.json to use instead of measuring, if it is the right one."
    )


Task = Annotated[
    FitTask | MeasureTask | QuantizeTask | EvaluateTask | BenchmarkTask | UploadTask | JobTask,
    Field(discriminator="kind"),
]


class Capabilities(_Message):
    """What a worker's machine is and can do."""

    chip: str = Field(max_length=128, description="Such as Apple M4 Pro.")
    memory_bytes: _Amount
    backend: Literal["metal", "cpu", "cuda"]
    mlx_version: str = Field(max_length=64)
    mlx_lm_version: str = Field("", max_length=64)
    platform: str = Field("", max_length=128)


class WorkerRegistration(_Message):
    """A worker introduces itself."""

    name: str = Field(min_length=1, max_length=128)
    capabilities: Capabilities


class WorkerWelcome(_Message):
    """What a registered worker is told; `token` is shown this once."""

    worker_id: str
    token: str = Field(description="Bearer token for claiming leases.")
    lease_seconds: float
    renew_seconds: float
    poll_seconds: float


class LeaseClaim(_Message):
    """A worker asks for a job."""

    worker_id: str = Field(max_length=64)


class StoredArtifact(_Message):
    """A file that an attempt uploaded, or that the server already had for this job."""

    name: str
    sha256: str
    bytes: int


class LeaseGrant(_Message):
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


class Progress(_Message):
    """How far a stage is: `done` of `total` in `unit`."""

    stage: Stage
    done: _Amount = 0
    total: _Amount = 0
    unit: str = Field("bytes", max_length=32)
    detail: str = Field("", max_length=512)
    seconds: Annotated[float, Field(ge=0), Number] = Field(
        0.0, description="Time in this stage so far."
    )


class LeaseRenewal(_Message):
    """The worker is alive, and how far it is."""

    attempt: _Attempt
    progress: Progress | None = None


class LeaseStatus(_Message):
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


class LeaseResult(_Message):
    """The end of an attempt; the same result sent twice is accepted twice."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_FAILURE_HAS_PROBLEM)

    attempt: _Attempt
    outcome: Literal[
        LeaseOutcome.SUCCEEDED,
        LeaseOutcome.FAILED,
        LeaseOutcome.CANCELLED,
        LeaseOutcome.CRASHED,
        LeaseOutcome.RELEASED,
    ]
    result: dict[str, Any] | None = None
    problem: Problem | None = Field(None, description="Required when the outcome is failed.")

    @model_validator(mode="after")
    def _failure_has_problem(self) -> LeaseResult:
        if self.outcome is LeaseOutcome.FAILED and self.problem is None:
            msg = "say in `problem` why the attempt failed"
            raise ValueError(msg)
        return self
