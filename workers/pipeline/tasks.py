"""Which steps each task goes through, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.steps import Step
from bitbudget.app.contract.tasks import (
    BenchmarkTask,
    EvaluateTask,
    FitTask,
    JobTask,
    MeasureTask,
    QuantizeTask,
    Task,
    UploadTask,
)
from bitbudget.app.core.encoders import ENCODERS
from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.requests import Recover, Rotation
from bitbudget.workers.benchmark import benchmark
from bitbudget.workers.evaluate.tasks import evaluate_tasks
from bitbudget.workers.hub.client import Hub
from bitbudget.workers.hub.upload import publish
from bitbudget.workers.models.digests import folder_digest
from bitbudget.workers.pipeline.fit_task import run_fit
from bitbudget.workers.pipeline.home import Home
from bitbudget.workers.pipeline.job import run_job
from bitbudget.workers.pipeline.measure_task import run_measure
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.steps.evaluate import Judge, read_report
from bitbudget.workers.pipeline.steps.fetch import Source, fetch
from bitbudget.workers.pipeline.steps.inventory import take_inventory
from bitbudget.workers.pipeline.steps.quantize import check_same_model, claimed_output, quantize
from bitbudget.workers.pipeline.steps.recover import recover_checkpoint
from bitbudget.workers.pipeline.steps.rotate import rotated

__all__ = ["run_task"]


def run_task(  # noqa: PLR0911, one line for each kind of task
    task: Task, emit: Callable[[Event], None]
) -> dict[str, Any]:
    """Run `task` here, tell its events to `emit`, and return its result."""
    reporter = Reporter(emit)
    home = Home(Path(task.home))
    match task:
        case FitTask():
            return run_fit(task, emit)
        case MeasureTask():
            return run_measure(task, emit)
        case QuantizeTask():
            return _quantize(task, home, reporter)
        case UploadTask():
            return _upload(task)
        case JobTask():
            return run_job(task, home, reporter)
        case EvaluateTask():
            return _evaluate(task, home, reporter)
        case BenchmarkTask():
            return _benchmark(task, reporter)


def _quantize(task: QuantizeTask, home: Home, reporter: Reporter) -> dict[str, Any]:
    manifest = _read_manifest(Path(task.manifest))
    how = manifest.recover if task.recover is Recover.NONE else task.recover
    checkpoint = fetch(
        task.model,
        home,
        reporter,
        disk_limit_bytes=task.disk_limit_bytes,
        whole=manifest.rotation != "none"
        or how is not Recover.NONE
        or ENCODERS[manifest.encoder].needs_statistics,
        source=Source(task.name, task.allow_quantized_source),
    )
    check_same_model(checkpoint, manifest)
    checkpoint = rotated(checkpoint, Rotation(manifest.rotation), home, reporter)
    inventory = take_inventory(checkpoint, home, reporter)
    output = Path(task.output)
    with claimed_output(output, home):
        written = quantize(checkpoint, inventory, manifest, output, reporter, home=home)
        recovery = recover_checkpoint(
            written.folder,
            checkpoint,
            how,
            reporter,
            seconds=task.recover_seconds,
        )
    return {
        "checkpoint": str(written.folder),
        "file_bytes": written.file_bytes,
        "manifest": str(written.folder / "manifest.json"),
        "sha256": manifest.sha256,
        **recovery,
    }


def _read_manifest(path: Path) -> Manifest:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(
            where="manifest",
            found=f"{path}: {error.strerror}",
            expected="a manifest written by bitbudget allocate",
            remedy="check the path",
        ) from error
    return Manifest.from_bytes(data, where=path.name)


def _evaluate(task: EvaluateTask, home: Home, reporter: Reporter) -> dict[str, Any]:
    checkpoint = Path(task.checkpoint)
    reference = fetch(
        task.reference,
        home,
        reporter,
        disk_limit_bytes=task.disk_limit_bytes,
        source=Source(task.name, task.allow_quantized_source),
    )
    report = reporter.step(Step.EVALUATE)
    judge = Judge(
        reference.folder,
        reference.identity(home.digests).digest,
        home,
        report,
        text=None if task.text is None else Path(task.text),
        rollouts=task.rollouts,
        seed=task.seed,
    )
    names = sorted(path.name for path in checkpoint.glob("*.safetensors"))
    if not (checkpoint / "config.json").is_file() or not names:
        raise InvalidModelError(
            where=str(checkpoint),
            found="no config.json with safetensors files",
            expected="a checkpoint folder",
            remedy="give the folder that bitbudget quantize wrote",
        )
    path = judge.judge(checkpoint, folder_digest(checkpoint, ["config.json", *names], home.digests))
    report.artifact(path)
    return read_report(path) | _scores(task, checkpoint, reference.folder)


def _scores(task: EvaluateTask, checkpoint: Path, reference: Path) -> dict[str, Any]:
    """Return the scores of both models on the tasks asked for."""
    if not task.tasks:
        return {}
    include = None if task.task_folder is None else Path(task.task_folder)
    return {
        name: evaluate_tasks(folder, task.tasks, include=include, limit=task.task_limit)
        for name, folder in (("tasks", checkpoint), ("reference_tasks", reference))
    }


def _benchmark(task: BenchmarkTask, reporter: Reporter) -> dict[str, Any]:
    report = reporter.step(Step.BENCHMARK)
    return benchmark(
        None if task.checkpoint is None else Path(task.checkpoint),
        task.prompt_tokens,
        task.generate_tokens,
        kernels=task.kernels,
        progress=lambda done, total: report.progress(done, total, "tokens"),
    )


def _upload(task: UploadTask) -> dict[str, Any]:
    done = publish(Hub(), Path(task.checkpoint), task.repository, private=task.private)
    return {
        "repository": done.repository,
        "revision": done.revision,
        "url": done.url,
        "files": done.files,
        "bytes": done.nbytes,
    }
