"""What each task answers, put together from what its steps made."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.durations import comparing_texts_s
from bitbudget.app.contract.reports import (
    Baseline,
    Evaluation,
    FitModel,
    FitResult,
    JobResult,
    MeasuredModel,
    MeasureResult,
    QuantizeResult,
    Recovery,
    Relinearization,
    RelinearizationSkipped,
    SpeedResult,
    UploadResult,
)
from bitbudget.app.contract.tasks import CompareTextTask, UploadTask
from bitbudget.app.contract.texts import TextComparison
from bitbudget.app.core.decode import decoded_weights
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.effort import EFFORTS, Effort
from bitbudget.app.core.hub_id import HubPlace
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Sensitivity
from bitbudget.app.core.measurement_file import MAX_MEASUREMENT_BYTES, read_file
from bitbudget.workers.files.limits import reading
from bitbudget.workers.models import Checkpoint, build_inventory
from bitbudget.workers.models.digests import known_digest
from bitbudget.workers.models.given import read_given
from bitbudget.workers.pipeline.measuring.elsewhere import known_measurement
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.run import Delivered, Measured, Measurements, Run, Variant

__all__ = [
    "benchmark",
    "compare_text",
    "evaluate",
    "fit",
    "job",
    "measure",
    "quantize",
    "speed",
    "upload",
]

_USUAL: Final = MeasureOptions(
    encoder=EFFORTS[Effort.STANDARD].encoder, sensitivity=Sensitivity.FISHER
)
"""How a model is measured where nothing is stated."""


_CHARACTERS_OF_A_TOKEN: Final = 4


def fit(run: Run) -> FitResult:
    """Return the model's name and inventory, and its measurement where that is known.

    A folder is not hashed for it: its weights are known where they were measured before.
    """
    variant = run[Variant]
    checkpoint = variant.checkpoint
    model = FitModel(name=checkpoint.name, revision=checkpoint.revision)
    known = None
    if checkpoint.digest or _is_hashed(checkpoint, run):
        known = known_measurement(run, checkpoint.identity(run.home.digests), _USUAL)
    measurement = None if known is None else str(known)
    return FitResult(model=model, inventory=variant.inventory, measurement=measurement)


def _is_hashed(checkpoint: Checkpoint, run: Run) -> bool:
    files = ["config.json", *(file.name for file in checkpoint.files)]
    return all(known_digest(checkpoint.folder / name, run.home.digests) for name in files)


def measure(run: Run) -> MeasureResult:
    """Return where the measurement of every variant is, and what the last one is."""
    measured = run[Measurements].all
    last = measured[-1]
    model = last.measurement.model
    return MeasureResult(
        measurement=str(last.path),
        measurements={m.variant.options.rotation.value: str(m.path) for m in measured},
        key=last.measurement.key,
        model=MeasuredModel(name=model.name, revision=model.revision, digest=model.digest),
        modules=len(last.measurement.curves),
        tokens=last.measurement.tokens,
        warnings=last.measurement.warnings,
    )


def quantize(run: Run) -> QuantizeResult:
    """Return the checkpoint with what training it won."""
    delivered = run[Delivered]
    return QuantizeResult(
        checkpoint=str(delivered.folder),
        file_bytes=delivered.file_bytes,
        manifest=str(delivered.folder / "manifest.json"),
        sha256=run[Manifest].sha256,
        recovery=run.find(Recovery),
    )


def evaluate(run: Run) -> Evaluation:
    """Return the report of the evaluation."""
    return run[Evaluation]


def benchmark(run: Run) -> Benchmark:
    """Return the report of the benchmark."""
    return run[Benchmark]


def compare_text(run: Run, task: CompareTextTask) -> TextComparison:
    """Return what the original and the checkpoint of the task make of its prompt."""
    from bitbudget.workers.benchmark.machine_speed import machine_speed  # noqa: PLC0415, it imports MLX
    from bitbudget.workers.benchmark.texts import compare_texts  # noqa: PLC0415, as above
    from bitbudget.workers.running.stock import check_opens, stock_model  # noqa: PLC0415, as above

    original, checkpoint = run[Checkpoint], Path(task.checkpoint)
    check_opens(checkpoint, stock_model)
    with reading():
        inventory = build_inventory(original)
    rates = machine_speed(run.home.folder)
    seconds = comparing_texts_s(
        decoded_weights(inventory),
        inventory.architecture.layers,
        task.tokens + len(task.prompt) // _CHARACTERS_OF_A_TOKEN,
        rates,
    )
    run.report.log(f"takes about {duration_words(seconds)} in all")
    return compare_texts(original, inventory, checkpoint, task.prompt, task.tokens, speed=rates)


def speed(run: Run) -> SpeedResult:
    """Return how fast this machine is, measured now if that is not known."""
    from bitbudget.workers.benchmark.machine_speed import machine_speed  # noqa: PLC0415, it imports MLX

    return SpeedResult(speed=machine_speed(run.home.folder))


def upload(task: UploadTask) -> UploadResult:
    """Publish a checkpoint or a measurement and return where it went."""
    from bitbudget.workers.hub.client import Hub  # noqa: PLC0415, other tasks need no network
    from bitbudget.workers.hub.measurements import publish_measurement  # noqa: PLC0415, as above
    from bitbudget.workers.hub.upload import publish  # noqa: PLC0415, as above

    path = Path(task.checkpoint)
    if task.is_measurement:
        found = read_file(read_given(path, MAX_MEASUREMENT_BYTES), str(path))
        place = HubPlace.parse(task.repository)
        done = publish_measurement(Hub(), found, place, private=task.private)
    else:
        done = publish(Hub(), path, task.repository, private=task.private)
    return UploadResult(
        repository=done.repository,
        revision=done.revision,
        url=done.url,
        files=done.files,
        bytes=done.nbytes,
    )


def job(run: Run) -> JobResult:
    """Return the certificate of the manifest, and what was made and found out with it."""
    manifest, measured, delivered = run[Manifest], run[Measured], run.find(Delivered)
    folder = run.home.manifest(manifest.sha256) if delivered is None else delivered.folder
    return JobResult(
        sha256=manifest.sha256,
        file_bytes=manifest.file_bytes,
        budget_bytes=manifest.budget_bytes,
        bits_per_weight=manifest.bits_per_weight,
        **manifest.certificate.model_dump(mode="json", by_alias=False),
        notes=manifest.notes,
        manifest=str(folder / "manifest.json"),
        measurement=str(measured.path),
        measurement_key=measured.measurement.key,
        checkpoint=None if delivered is None else str(delivered.folder),
        low_bits=run.find(Relinearization) or run.find(RelinearizationSkipped),
        recovery=run.find(Recovery),
        evaluation=run.find(Evaluation),
        baseline=run.find(Baseline),
        benchmark=run.find(Benchmark),
    )
