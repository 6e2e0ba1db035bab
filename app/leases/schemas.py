"""The contract between the server, the command line and whatever does the heavy work.

Heavy work runs in a child process, `python -m workers.child`: one `Task` as JSON on its standard
input, one `Event` as a JSON line each on its standard output, the last of them `finished` or
`failed`. The worker agent runs a lease that way, the command line its local commands.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.core.formats import FormatName
from app.core.measurement import Encoder, Sensitivity
from app.core.requests import JobRequest, Rotation

__all__ = [
    "BenchmarkTask",
    "EvaluateTask",
    "Event",
    "FitTask",
    "JobTask",
    "MeasureTask",
    "Problem",
    "QuantizeTask",
    "Stage",
    "Task",
]


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
    status: int
    detail: str
    fields: dict[str, Any] = Field(default_factory=dict)
    exit_code: int = 1


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


class _ModelTask(_Task):
    model: str
    encoder: Encoder = Encoder.CAREFUL
    sensitivity: Sensitivity = Sensitivity.FISHER
    rotation: Rotation = Rotation.NONE
    text: str | None = None
    seed: int = 0


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
    recover: Literal["none", "scales", "qad"] = "none"


class EvaluateTask(_Task):
    """Compare a checkpoint with its reference. Result: the report of `evaluate --json`."""

    kind: Literal["evaluate"] = "evaluate"
    checkpoint: str
    reference: str
    text: str | None = None
    rollouts: int = 0
    seed: int = 0


class BenchmarkTask(_Task):
    """Measure speed and peak memory of a checkpoint. Result: the report of `benchmark --json`."""

    kind: Literal["benchmark"] = "benchmark"
    checkpoint: str
    prompt_tokens: int = 512
    generate_tokens: int = 128
    kernels: bool = False


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


Task = Annotated[
    FitTask | MeasureTask | QuantizeTask | EvaluateTask | BenchmarkTask | JobTask,
    Field(discriminator="kind"),
]
