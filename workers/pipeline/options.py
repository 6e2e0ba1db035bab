"""Options of the steps, as the tasks that run them give them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.calibration_text import NO_TEXT, OwnText
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.effort import Effort, encoder_at
from bitbudget.app.core.formats import STOCK_FORMATS, Format
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Encoder, ModelIdentity, Sensitivity, measurement_key
from bitbudget.app.core.requests import AllocationRequest, JobRequest, Recover, Rotation
from bitbudget.app.core.runtime import Runtime, measured_formats
from bitbudget.workers.models.given import read_given

__all__ = [
    "BenchmarkOptions",
    "EvaluateOptions",
    "FetchOptions",
    "GivenAnswer",
    "GivenMeasurement",
    "MeasureOptions",
    "PreviewOptions",
    "QuantizeOptions",
    "RecoverOptions",
    "StatedBudget",
    "user_text",
]


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Which model, and how much of it.

    `whole` says that all weights are needed at once, which `disk_limit_bytes` must allow;
    `headers_only` that none is read. With `identify` the files of a folder are hashed at once.
    `name` is what the user calls the model; with `names_are_ids` a model that reads as a Hub id is
    never a folder. With `only_measures` the headers of a model on the Hub are enough where its
    measurement is known.
    """

    model: str
    whole: bool = True
    identify: bool = True
    headers_only: bool = False
    disk_limit_bytes: int | None = None
    name: str | None = None
    allow_quantized_source: bool = False
    names_are_ids: bool = False
    only_measures: bool = False


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """Encoder, sensitivity and data of a measurement.

    `own_text` is how the model writes its text where the user gives none.
    """

    encoder: Encoder = Encoder.CAREFUL
    sensitivity: Sensitivity = Sensitivity.WEIGHTS
    rotation: Rotation = Rotation.NONE
    text: Path | None = None
    seed: int = 0
    formats: tuple[Format, ...] = STOCK_FORMATS
    features: str = "default"
    cluster: str | None = None
    effort: Effort = Effort.STANDARD
    own_text: OwnText = OwnText.SELF

    @classmethod
    def of_job(cls, request: JobRequest) -> MeasureOptions:
        """Return what a job measures; all its runtime's formats, so that later budgets are free."""
        return cls(
            encoder=request.encoder,
            sensitivity=request.sensitivity,
            rotation=request.rotation,
            text=None if request.text is None else Path(request.text),
            seed=request.seed,
            formats=measured_formats(request.runtime),
            effort=request.effort,
        )

    @classmethod
    def of_task(cls, task: MeasureTask) -> MeasureOptions:
        """Return what a measuring task asks for."""
        return cls(
            encoder=task.encoder,
            sensitivity=task.sensitivity,
            rotation=task.rotation,
            text=None if task.text is None else Path(task.text),
            seed=task.seed,
            formats=task.formats or measured_formats(task.measured_runtime),
            features=task.features,
            cluster=task.cluster,
            effort=task.effort,
        )

    @classmethod
    def of_manifest(
        cls, manifest: Manifest, seed: int = 0, runtime: Runtime = Runtime.STOCK
    ) -> MeasureOptions:
        """Return how a manifest was measured, if that was for `runtime` and without a text."""
        return cls(
            manifest.encoder,
            manifest.sensitivity,
            Rotation(manifest.rotation),
            seed=seed,
            formats=measured_formats(runtime),
            effort=manifest.effort,
            own_text=OwnText.CHAT if manifest.text == OwnText.CHAT else OwnText.SELF,
        )

    def at_effort(self, effort: Effort) -> MeasureOptions:
        """Return the same at another effort; a stated encoder stays."""
        encoder = encoder_at(effort, self.encoder, before=self.effort, sensitivity=self.sensitivity)
        return replace(self, effort=effort, encoder=encoder)

    @property
    def is_rotated(self) -> bool:
        """Whether a rotated model is measured, perhaps beside the model as it is."""
        return self.rotation is not Rotation.NONE

    @property
    def needs_whole_model(self) -> bool:
        """Whether the model is run or rotated, and not only its weights read one by one."""
        return self.sensitivity is not Sensitivity.WEIGHTS or self.is_rotated

    def text_identity(self) -> str:
        """Return which tokens sensitivity uses, as `Measurement.text` says it."""
        if self.sensitivity is Sensitivity.WEIGHTS:
            return NO_TEXT
        return self.own_text.value if self.text is None else sha256_of(self.text_bytes())

    def text_bytes(self) -> bytes:
        """Return the user's text; InvalidRequestError when it cannot be read."""
        return user_text(self.text or Path())

    def key(self, model: ModelIdentity) -> str:
        """Return the key of the measurement that these options give."""
        return measurement_key(
            model.digest,
            self.encoder,
            self.sensitivity,
            self.text_identity(),
            self.rotation.value,
            effort=self.effort,
            has_own_formats=any(not format_.is_stock for format_ in self.formats),
        )

    def cache_name(self, model: ModelIdentity) -> str:
        """Return the folder name of the measurement: its key and whatever else shapes it."""
        parts = {
            "key": self.key(model),
            "seed": self.seed,
            "formats": sorted(str(format_) for format_ in self.formats),
            "features": self.features,
        }
        return sha256_of(canonical_json(parts))


@dataclass(frozen=True, slots=True)
class GivenMeasurement:
    """A measurement.json made elsewhere, taken if it is of these weights and made in this way."""

    path: Path


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """The manifest.json that an earlier attempt of this job answered it with."""

    path: Path


@dataclass(frozen=True, slots=True)
class PreviewOptions:
    """What a first answer is asked for; `wanted` None says: where it is worth its time."""

    request: AllocationRequest
    wanted: bool | None = None


@dataclass(frozen=True, slots=True)
class StatedBudget:
    """What the budget asks for, to refuse it early where nothing can be stored in it."""

    request: AllocationRequest


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """The folder to write; by default one under BITBUDGET_HOME."""

    output: Path | None = None


@dataclass(frozen=True, slots=True)
class RecoverOptions:
    """How a checkpoint is trained, and for how long at most."""

    how: Recover
    seconds: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What a checkpoint is compared on, `checkpoint` being the one that the run made by default.

    `effort` says on how many windows where neither a text nor `rollouts` are given.
    With `baseline` uniform 4-bit precision at equal bytes is evaluated, too; `tasks` are those of
    lm-evaluation-harness, of which at most `task_limit` questions each are asked.
    """

    checkpoint: Path | None = None
    text: Path | None = None
    rollouts: int = 0
    seed: int = 0
    baseline: bool = False
    tasks: tuple[str, ...] = ()
    task_folder: Path | None = None
    task_limit: int | None = None
    effort: Effort = Effort.STANDARD


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """How much is read and written, `checkpoint` being the one that the run made by default."""

    checkpoint: Path | None = None
    prompt_tokens: int = 128
    generate_tokens: int = 64
    kernels: bool = False
    most_seconds_on_cpu: float | None = None


def user_text(path: Path) -> bytes:
    """Return the text a user named; InvalidRequestError when it cannot be read."""
    return read_given(path)
