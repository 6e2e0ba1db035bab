"""Tasks: what a child process is asked to do."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from bitbudget.app.contract.messages import Message
from bitbudget.app.contract.texts import Prompt, Tokens
from bitbudget.app.core.effort import Effort, with_effort
from bitbudget.app.core.encoders import Encoder, usable_encoder
from bitbudget.app.core.formats import FormatName
from bitbudget.app.core.requests import AllocationRequest, JobRequest, Recover, Rotation
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sensitivity import Sensitivity

__all__ = [
    "ActivationTask",
    "BenchmarkTask",
    "CompareTextTask",
    "DraftTask",
    "EvaluateTask",
    "FitTask",
    "ImportTask",
    "JobTask",
    "MeasureTask",
    "QuantizeTask",
    "SpeedTask",
    "Task",
    "UploadTask",
]


class _Task(Message):
    home: str = Field(description="Folder for state and caches: BITBUDGET_HOME.")
    disk_limit_bytes: int | None = Field(
        None, ge=0, description="Most bytes of downloaded weight files to keep at once."
    )


class _LookingTask(_Task):
    measurement_repositories: tuple[str, ...] = Field(
        (), description="Repositories on the Hub to look for a measurement in before measuring."
    )


class _SourceTask(_Task):
    name: str | None = Field(None, description="What manifest and card call the model.")
    allow_quantized_source: bool = Field(
        default=False, description="Take weights that were quantized before, decoded."
    )


class _ModelTask(_SourceTask, _LookingTask):
    model: str
    effort: Effort = Effort.STANDARD
    max_minutes: float | None = Field(
        None, gt=0, description="Time that the best effort up to the stated one is chosen for."
    )
    encoder: Encoder = Field(Encoder.YAQA, description="Default: the effort's.")
    sensitivity: Sensitivity = Sensitivity.FISHER
    rotation: Rotation = Rotation.NONE
    text: str | None = None
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _follows_its_effort(cls, given: object) -> object:
        return with_effort(given, ("encoder",))

    @model_validator(mode="after")
    def _has_what_its_encoder_needs(self) -> Self:
        self.encoder = usable_encoder(self.encoder, self.sensitivity)
        return self


_NAMES_ARE_IDS: Final = Field(
    default=False,
    description="What reads as a Hub id is one, whatever folders lie beside this process.",
)


class FitTask(_SourceTask, _LookingTask):
    """Headers only: inventory and sizes. Result: {"inventory": ..., "model": ...}.

    Where a measurement of these weights is known, the result says where it is.
    """

    kind: Literal["fit"] = "fit"
    model: str
    names_are_ids: bool = _NAMES_ARE_IDS


class MeasureTask(_ModelTask):
    """Steps fetch, inventory, measure; with a budget preview, which announces first_manifest.json.

    Result: {"measurement": path, "key": sha256, ...}.
    """

    kind: Literal["measure"] = "measure"
    runtime: Runtime = Field(
        Runtime.STOCK, description="What runs results: its formats are measured, and the budget's."
    )
    formats: tuple[FormatName, ...] | None = None
    features: Literal["default", "full"] = "default"
    cluster: str | None = None
    budget: AllocationRequest | None = Field(
        None, description="Asked for afterwards: what cannot be is refused before it is measured."
    )
    preview: bool | None = Field(
        None, description="Whether a first answer to `budget` comes before; see JobRequest."
    )

    @property
    def measured_runtime(self) -> Runtime:
        """The runtime whose formats are measured: the budget's where there is one."""
        return self.runtime if self.budget is None else self.budget.runtime


class ImportTask(_SourceTask):
    """Check a measurement that somebody else made, and keep it under `home`.

    `source` is a file or `[datasets/]org/name[@revision]` on the Hub. Of several measurements there
    the one of `model` is taken, made as far as that is stated in this way. Result:
    {"measurement": path, "sha256": ..., "origin": ..., ...}.
    """

    kind: Literal["import"] = "import"
    source: str
    model: str | None = Field(None, description="Refuse it unless it is of these weights.")
    effort: Effort | None = None
    encoder: Encoder | None = None
    sensitivity: Sensitivity | None = None
    rotation: Rotation | None = None
    keep: bool = Field(default=True, description="Whether later commands find it.")


class QuantizeTask(_SourceTask):
    """Write the checkpoint of a manifest. Result: {"checkpoint": path, "file_bytes": int, ...}."""

    kind: Literal["quantize"] = "quantize"
    model: str
    manifest: str
    output: str
    recover: Recover = Recover.NONE
    recover_seconds: float = Field(default=300.0, ge=0)


class EvaluateTask(_SourceTask):
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


class CompareTextTask(_SourceTask):
    """Let an original and a checkpoint continue one prompt. Result: `compare-text --json`."""

    kind: Literal["compare-text"] = "compare-text"
    model: str = Field(description="The original: a folder or a Hub id.")
    checkpoint: str
    prompt: Prompt
    tokens: Tokens = 64


class ActivationTask(_SourceTask):
    """Find what an engine's rounding of activations costs. Result: that of `--activations`."""

    kind: Literal["activations"] = "activations"
    checkpoint: str
    reference: str
    activations: str = Field(description="Such as int8:128: bits and channels of a scale.")
    text: str | None = None
    rollouts: int = Field(default=0, ge=0)
    seed: int = 0


class DraftTask(_Task):
    """Find what a draft model is worth to a target. Result: the report of `evaluate --draft`.

    Two checkpoints that one model was quantized to are predicted from their manifests, unless a
    text or rollouts are given: then, and for any other pair, both are run.
    """

    kind: Literal["draft"] = "draft"
    target: str
    draft: str
    text: str | None = None
    rollouts: int = Field(default=0, ge=0)
    seed: int = 0
    temperature: float = Field(default=1.0, gt=0, le=10)
    verify_cost: float = Field(default=1.0, ge=1, le=100)


class BenchmarkTask(_Task):
    """Measure speed and peak memory of a checkpoint. Result: the report of `benchmark --json`.

    Without a checkpoint the kernels alone are checked and timed.
    """

    kind: Literal["benchmark"] = "benchmark"
    checkpoint: str | None = None
    prompt_tokens: int = 512
    generate_tokens: int = 128
    kernels: bool = False


class SpeedTask(_Task):
    """Measure how fast this machine is, unless that is known. Result: {"speed": {...}}."""

    kind: Literal["speed"] = "speed"


class UploadTask(_Task):
    """Publish a finished checkpoint, or a measurement, on the Hub, as HF_ENDPOINT and HF_TOKEN say.

    Result: {"repository", "revision", "url", "files", "bytes"}.
    """

    kind: Literal["upload"] = "upload"
    checkpoint: str = Field(description="A checkpoint's folder, or a measurement's file.")
    is_measurement: bool = False
    repository: str = Field(
        description="org/name, created when it does not exist; datasets/org/name for measurements."
    )
    private: bool = True


class JobTask(_LookingTask):
    """All steps of a job, as far as `request.deliver` says.

    `output` is the checkpoint folder (default: one under `home`). Artifacts announced on the way:
    inventory.json, first_measurement.json, first_manifest.json, measurement.json, manifest.json,
    evaluation.json, benchmark.json.
    """

    kind: Literal["job"] = "job"
    request: JobRequest
    names_are_ids: bool = _NAMES_ARE_IDS
    output: str | None = None
    baseline: bool = Field(
        default=False, description="Also evaluate uniform 4-bit g64 at the nearest bytes."
    )
    measurement: str | None = Field(
        None, description="A measurement.json to use instead of measuring, if it is the right one."
    )
    manifest: str | None = Field(
        None, description="The manifest.json that an earlier attempt answered this job with."
    )


Task = Annotated[
    FitTask
    | MeasureTask
    | ImportTask
    | QuantizeTask
    | EvaluateTask
    | CompareTextTask
    | ActivationTask
    | DraftTask
    | BenchmarkTask
    | SpeedTask
    | UploadTask
    | JobTask,
    Field(discriminator="kind"),
]
