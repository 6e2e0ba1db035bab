"""What the tasks of a worker come to: the JSON of `--json`, of artifacts and of job results.

A field that may be null and has no default is always written; one whose default is null is left
out while it is null (`recovery` of a job that asked for none). KL is in nats per token, times are
in seconds, sizes in bytes, throughout.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.messages import (
    MOST_ENTRIES,
    Amount,
    Flag,
    Integer,
    Line,
    Nats,
    Notes,
    Path,
    Quantity,
    Real,
    Report,
    Share,
    Text,
    is_none,
)
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.requests import Recover
from bitbudget.app.core.sensitivity import Sensitivity

__all__ = [
    "MOST_REVISIONS",
    "Answer",
    "Baseline",
    "Evaluation",
    "FitModel",
    "FitResult",
    "ImportedMeasurement",
    "Interval",
    "InventorySource",
    "JobResult",
    "LowBits",
    "MeasureResult",
    "MeasuredModel",
    "ModuleErrors",
    "QuantizeResult",
    "Recovery",
    "Relinearization",
    "RelinearizationSkipped",
    "Revision",
    "Rival",
    "UniformRival",
    "UploadResult",
    "WindowScores",
]

_MOST_WINDOWS: Final = 2**18
MOST_REVISIONS: Final = 16
"""Answers that a job may come to: each is kept, and a worker makes two or three."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Interval = tuple[Nats, Nats]
"""A 95 % interval: its lower and its upper end."""
TaskScores = Annotated[
    dict[Line, Annotated[dict[Line, Real], Field(max_length=MOST_ENTRIES)]],
    Field(max_length=MOST_ENTRIES),
]
"""The metrics of each task of lm-evaluation-harness."""


class WindowScores(Report):
    """A checkpoint against its original on one set of windows of tokens.

    `kl_per_window` holds the mean KL of each window, which the interval is bootstrapped from;
    `windows_digest` identifies the tokens, so that only reports on the same ones are compared.
    """

    kl_nats_per_token: Nats
    kl_interval_95: Interval
    kl_median: Nats
    kl_p90: Nats
    kl_p99: Nats
    kl_max: Nats
    top1_agreement: Share
    expected_acceptance_rate: Real
    perplexity_ratio: Quantity
    reference_perplexity: Quantity
    tokens: Amount
    windows: Amount
    kl_per_window: Annotated[tuple[Nats, ...], Field(max_length=_MOST_WINDOWS)]
    windows_digest: Line


class Evaluation(WindowScores):
    """The report of `evaluate --json`: the scores on its first set of windows, and on each.

    `noise_floor` is the KL of the original to itself by another path of computation;
    `distinguishable` says whether the checkpoint's KL is more than twice that.
    """

    evaluated_on: Line
    noise_floor: Nats
    noise_floor_path: Line
    distinguishable: Flag
    vocabulary: Amount
    kl_is_lower_bound: Flag
    top_k: Amount
    seed: Integer
    checkpoint: Path
    reference: Path
    sets: Annotated[dict[Line, WindowScores], Field(max_length=16)]
    tasks: TaskScores | None = Field(None, exclude_if=is_none)
    reference_tasks: TaskScores | None = Field(None, exclude_if=is_none)


class Rival(Report):
    """One allocation of a comparison at equal bytes; not made where it has no `evaluation`."""

    sha256: Digest
    file_bytes: Amount
    predicted_kl_nats_per_token: Nats
    evaluation: Evaluation | None = None

    @property
    def kl_nats_per_token(self) -> float:
        """What it lost, or will lose as far as it is predicted."""
        found = self.evaluation
        return self.predicted_kl_nats_per_token if found is None else found.kl_nats_per_token


class UniformRival(Rival):
    """A checkpoint with one format for all, always measured."""

    format: Line
    evaluation: Evaluation


class Baseline(Report):
    """Uniform 4-bit precision against our allocation in no more bytes."""

    uniform: UniformRival
    ours_at_equal_bytes: Rival


class Recovery(Report):
    """What training after quantization won: KL before and after on rollouts not trained on.

    `floats` arrays that are stored unquantized were trained, too; `cpu_seconds` are those of all
    threads.
    """

    how: Recover
    before: Nats
    after: Nats
    steps: Amount
    seconds: Quantity
    cpu_seconds: Quantity
    changed: Flag
    tokens: Amount
    floats: Amount
    ended: Line


class ModuleErrors(Report):
    """What the modules' errors cost: alone, beside the others' errors, and all together."""

    alone: Nats
    beside: Nats
    whole: Nats
    disagreement: Quantity
    warns_above: Quantity


class Relinearization(Report):
    """Allocations whose errors were measured together, by name, and which one was chosen."""

    bits_per_weight: Quantity
    predicted_kl_nats_per_token: Nats
    measured_kl_nats_per_token: Annotated[dict[Line, Nats], Field(max_length=64)]
    chosen: Line
    rollouts: Amount
    ends: ModuleErrors
    written_kl_nats_per_token: Nats


class RelinearizationSkipped(Report):
    """Why errors were not measured together although bits are few."""

    bits_per_weight: Quantity
    skipped: Text


LowBits = Relinearization | RelinearizationSkipped
"""What was found out below 3.5 bits per weight: `low_bits` of a job's result."""


class Answer(Report):
    """An allocation: the head of its manifest, and how the measurement behind it was made."""

    manifest_sha256: Digest
    file_bytes: Amount
    budget_bytes: Amount
    bits_per_weight: Quantity
    predicted_kl_nats_per_token: Nats
    bound: Nats
    gap: Real
    status: Line
    effort: Effort
    sensitivity: Sensitivity

    @classmethod
    def of(cls, manifest: Manifest, **more: object) -> Self:
        """Return the head of a manifest, with `more` fields of a subclass."""
        certificate = manifest.certificate
        return cls.model_validate(
            {
                "manifest_sha256": manifest.sha256,
                "file_bytes": manifest.file_bytes,
                "budget_bytes": manifest.budget_bytes,
                "bits_per_weight": manifest.bits_per_weight,
                "predicted_kl_nats_per_token": certificate.predicted_kl_nats_per_token,
                "bound": certificate.bound,
                "gap": certificate.gap,
                "status": certificate.status,
                "effort": manifest.effort,
                "sensitivity": manifest.sensitivity,
                **more,
            }
        )


class Revision(Answer):
    """One answer of a job, numbered from 1: a later one is a refinement.

    Revision.of(manifest, revision=1)
    """

    revision: Annotated[int, Field(ge=1, le=MOST_REVISIONS)]


class JobResult(Report):
    """What `run --json` prints, and what a worker reports of a job: the certificate and files.

    `checkpoint` is null for a job that delivers a manifest; paths are those of the worker.
    """

    sha256: Digest
    file_bytes: Amount
    budget_bytes: Amount
    bits_per_weight: Quantity
    predicted_kl_nats_per_token: Nats
    predicted_kl_interval_95: Interval | None = None
    bound: Nats
    gap: Real
    shadow_price_nats_per_byte: Real
    status: Literal["optimal", "feasible"]
    solver: Line
    stopped_by: Line = ""
    notes: Notes
    manifest: Path
    measurement: Path
    measurement_key: Digest
    checkpoint: Path | None
    low_bits: LowBits | None = Field(None, exclude_if=is_none)
    recovery: Recovery | None = Field(None, exclude_if=is_none)
    evaluation: Evaluation | None = Field(None, exclude_if=is_none)
    baseline: Baseline | None = Field(None, exclude_if=is_none)
    benchmark: Benchmark | None = Field(None, exclude_if=is_none)


class FitModel(Report):
    """A model whose headers were read: nothing else is known of it."""

    name: Line
    revision: Line


class InventorySource(StrEnum):
    """What told the modules of a model: the truth, or a table where mlx-lm is not installed."""

    CLASS = "mlx-lm's class"
    NAMES = "names in the headers"


class FitResult(Report):
    """The inventory of a model, from its headers alone."""

    model: FitModel
    inventory: Inventory
    source: InventorySource = InventorySource.CLASS
    measurement: Path | None = Field(
        None, exclude_if=is_none, description="The file of what is known of these weights."
    )


class SpeedResult(Report):
    """How fast the machine is."""

    speed: MachineSpeed


class MeasuredModel(Report):
    """Which weights were measured; `digest` is over all files."""

    name: Line
    revision: Line
    digest: Line


class MeasureResult(Report):
    """Where a measurement is; with several rotations `measurements` has each, the last on top."""

    measurement: Path
    measurements: Annotated[dict[Line, Path], Field(max_length=16)]
    key: Line
    model: MeasuredModel
    modules: Amount
    tokens: Amount
    warnings: Notes


class ImportedMeasurement(Report):
    """A measurement that somebody else made, checked; `measurement` is the file it is kept in.

    `sha256` is the digest of the file that was passed on, `origin` the repository on the Hub and
    its commit (empty for a file), `verified_for` the model whose weights were compared.
    """

    measurement: Path
    sha256: Digest
    bytes: Amount
    key: Digest
    model: MeasuredModel
    effort: Line
    encoder: Line
    sensitivity: Line
    rotation: Line
    text: Line
    modules: Amount
    origin: Line
    verified_for: Line | None


class QuantizeResult(Report):
    """A finished checkpoint: its folder, its bytes of weights, its manifest."""

    checkpoint: Path
    file_bytes: Amount
    manifest: Path
    sha256: Digest
    recovery: Recovery | None = Field(None, exclude_if=is_none)


class UploadResult(Report):
    """Where a checkpoint went on the Hub: `revision` is the commit."""

    repository: Line
    revision: Line
    url: Text
    files: Amount
    bytes: Amount
