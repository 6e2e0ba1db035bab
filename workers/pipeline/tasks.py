"""Which steps each task runs, with what options, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

from bitbudget.app.contract.events import Event, TaskResult
from bitbudget.app.contract.home import Home
from bitbudget.app.contract.steps import Step, Work, possible_steps
from bitbudget.app.contract.tasks import (
    ActivationTask,
    BenchmarkTask,
    CompareTextTask,
    DraftTask,
    EvaluateTask,
    FitTask,
    ImportTask,
    JobTask,
    MeasureTask,
    QuantizeTask,
    SpeedTask,
    Task,
    UploadTask,
)
from bitbudget.app.core.effort import EFFORTS, Effort
from bitbudget.app.core.encoders import ENCODERS
from bitbudget.app.core.measurement import Sensitivity
from bitbudget.app.core.requests import AllocationRequest, Deliver, JobRequest, Recover, Rotation
from bitbudget.workers.models.given import read_manifest
from bitbudget.workers.pipeline import results
from bitbudget.workers.pipeline.activations import activation_report
from bitbudget.workers.pipeline.drafting import draft_report
from bitbudget.workers.pipeline.importing import imported
from bitbudget.workers.pipeline.measuring.elsewhere import KnownMeasurement, Repositories
from bitbudget.workers.pipeline.options import (
    BenchmarkOptions,
    EvaluateOptions,
    FetchOptions,
    GivenAnswer,
    GivenMeasurement,
    MeasureOptions,
    PreviewOptions,
    QuantizeOptions,
    RecoverOptions,
    StatedBudget,
)
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.run import Run
from bitbudget.workers.pipeline.time_limit import TimeLimit

__all__ = ["run_task"]

_UNKNOWN_DOWNLOAD_BYTES: Final = 200_000_000


@dataclass(frozen=True)
class _Plan:
    """The steps of a task, what they are given, and how the answer is put together at the end."""

    steps: Sequence[Step]
    answer: Callable[[Run], TaskResult]
    given: tuple[object, ...] = ()
    work: Work = field(default_factory=Work)
    output: Path | None = None


def run_task(task: Task, emit: Callable[[Event], None]) -> TaskResult:
    """Run `task` here, tell its events to `emit`, and return its result."""
    if not isinstance(task, FitTask):
        from bitbudget.workers.quantize.output import check_folder  # noqa: PLC0415, only who writes

        check_folder(Path(task.home), "BITBUDGET_HOME")
    plan = _plan(task)
    run = Run(Home(Path(task.home)), Reporter(emit, plan.steps, plan.work))
    run.keep(*plan.given)
    with _claimed(plan.output, run.home):
        for step in plan.steps:
            _run_step(step, run)
        return plan.answer(run)


def _run_step(step: Step, run: Run) -> None:
    """Run `step` unless it is not needed; its module is imported now, so that others need not."""
    request = run.find(JobRequest)
    if request is not None and step.is_asked_for(request) is False:
        return
    module = import_module(f"bitbudget.workers.pipeline.steps.{step.value}")
    if hasattr(module, "is_needed") and not module.is_needed(run):
        return
    run.report.begin(step)
    run.keep(module.run_step(run))
    run.report.end()


def _claimed(output: Path | None, home: Home) -> AbstractContextManager[None]:
    if output is None:
        return nullcontext()
    from bitbudget.workers.pipeline.output import claimed_output  # noqa: PLC0415, only who writes

    return claimed_output(output, home)


def _plan(task: Task) -> _Plan:  # noqa: C901, PLR0911 - one line for each kind of task
    match task:
        case FitTask():
            given = (*_headers(task.model, task, names_are_ids=task.names_are_ids), *_looking(task))
            return _Plan((Step.FETCH, Step.INVENTORY), results.fit, given)
        case ImportTask():
            steps = () if task.model is None else (Step.FETCH, Step.INVENTORY)
            given = _headers(task.model or "", task)
            return _Plan(steps, partial(imported, task), given)
        case MeasureTask():
            return _measuring(task)
        case QuantizeTask():
            return _quantizing(task)
        case EvaluateTask():
            return _evaluating(task)
        case CompareTextTask():
            return _comparing_texts(task)
        case ActivationTask():
            return _Plan((Step.FETCH,), partial(activation_report, task), (_source(task),))
        case DraftTask():
            return _Plan((), lambda _: draft_report(task))
        case BenchmarkTask():
            return _benchmarking(task)
        case SpeedTask():
            return _Plan((), results.speed)
        case UploadTask():
            return _Plan((), lambda _: results.upload(task))
        case JobTask():
            return _job(task)


def _headers(
    model: str, task: FitTask | ImportTask, *, names_are_ids: bool = False
) -> tuple[object, ...]:
    fetched = FetchOptions(
        model,
        headers_only=True,
        name=task.name,
        names_are_ids=names_are_ids,
        allow_quantized_source=task.allow_quantized_source,
    )
    return fetched, MeasureOptions()


def _looking(task: FitTask | MeasureTask | JobTask) -> tuple[Repositories, ...]:
    names = task.measurement_repositories
    return (Repositories(names),) if names else ()


def _measuring(task: MeasureTask) -> _Plan:
    options = MeasureOptions.of_task(task)
    rotate = () if options.rotation is Rotation.NONE else (Step.ROTATE,)
    fetched = FetchOptions(
        task.model,
        whole=options.needs_whole_model,
        identify=options.needs_whole_model,
        disk_limit_bytes=task.disk_limit_bytes,
        name=task.name,
        allow_quantized_source=task.allow_quantized_source,
        only_measures=True,
    )
    preview = () if task.budget is None else (PreviewOptions(task.budget, task.preview),)
    steps = (Step.FETCH, Step.INVENTORY, *rotate, *(Step.PREVIEW for _ in preview), Step.MEASURE)
    return _Plan(
        steps,
        results.measure,
        (
            fetched,
            options,
            *_looking(task),
            *preview,
            *_limit(task.max_minutes),
            *_stated(task.budget, is_quantized=task.allow_quantized_source),
        ),
        _work(task.model, options, preview=task.preview),
    )


def _job(task: JobTask) -> _Plan:
    request = task.request
    options = MeasureOptions.of_job(request)
    fetched = FetchOptions(
        request.model,
        whole=options.needs_whole_model or request.deliver is Deliver.CHECKPOINT,
        identify=options.needs_whole_model or task.measurement is not None,
        disk_limit_bytes=task.disk_limit_bytes,
        name=request.name,
        names_are_ids=task.names_are_ids,
        allow_quantized_source=request.allow_quantized_source,
        only_measures=request.deliver is Deliver.MANIFEST and not request.relinearize,
    )
    output = None if task.output is None else Path(task.output)
    return _Plan(
        possible_steps(request),
        results.job,
        (
            request,
            fetched,
            options,
            *_looking(task),
            PreviewOptions(request.at_effort(Effort.QUICK), request.preview),
            *_limit(request.max_minutes),
            *_given(task),
            *_stated(request, is_quantized=request.allow_quantized_source),
            QuantizeOptions(output),
            RecoverOptions(request.recover, request.recover_seconds, request.seed),
            EvaluateOptions(seed=request.seed, baseline=task.baseline, effort=request.effort),
            BenchmarkOptions(most_seconds_on_cpu=EFFORTS[request.effort].benchmark_seconds),
        ),
        _work(
            request.model,
            options,
            baseline=task.baseline,
            recover_seconds=request.recover_seconds,
            relinearizes=request.relinearize is True,
            preview=request.preview,
        ),
        output,
    )


def _given(task: JobTask) -> Iterator[KnownMeasurement | GivenMeasurement | GivenAnswer]:
    """Yield what came with the task: the measurement the request names, or earlier attempts'."""
    if task.measurement is not None:
        path = Path(task.measurement)
        is_named = task.request.measurement is not None
        yield KnownMeasurement(path) if is_named else GivenMeasurement(path)
    if task.manifest is not None:
        yield GivenAnswer(Path(task.manifest))


def _limit(max_minutes: float | None) -> tuple[TimeLimit, ...]:
    return () if max_minutes is None else (TimeLimit(max_minutes),)


def _quantizing(task: QuantizeTask) -> _Plan:
    manifest = read_manifest(Path(task.manifest))
    how = manifest.recover if task.recover is Recover.NONE else task.recover
    options = MeasureOptions.of_manifest(manifest)
    fetched = FetchOptions(
        task.model,
        whole=options.rotation is not Rotation.NONE
        or how is not Recover.NONE
        or ENCODERS[manifest.encoder].needs_statistics,
        disk_limit_bytes=task.disk_limit_bytes,
        name=task.name,
        allow_quantized_source=task.allow_quantized_source,
    )
    output = Path(task.output)
    wanted = {
        Step.ROTATE: options.rotation is not Rotation.NONE,
        Step.RECOVER: how is not Recover.NONE,
    }
    steps = (Step.FETCH, Step.INVENTORY, Step.ROTATE, Step.QUANTIZE, Step.RECOVER)
    return _Plan(
        [step for step in steps if wanted.get(step, True)],
        results.quantize,
        (
            fetched,
            options,
            manifest,
            QuantizeOptions(output),
            RecoverOptions(how, task.recover_seconds),
        ),
        _work(task.model, options, recover_seconds=task.recover_seconds),
        output,
    )


def _evaluating(task: EvaluateTask) -> _Plan:
    evaluated = EvaluateOptions(
        Path(task.checkpoint),
        text=None if task.text is None else Path(task.text),
        rollouts=task.rollouts,
        seed=task.seed,
        tasks=task.tasks,
        task_folder=None if task.task_folder is None else Path(task.task_folder),
        task_limit=task.task_limit,
    )
    return _Plan((Step.FETCH, Step.EVALUATE), results.evaluate, (_source(task), evaluated))


def _source(task: EvaluateTask | ActivationTask) -> FetchOptions:
    return FetchOptions(
        task.reference,
        disk_limit_bytes=task.disk_limit_bytes,
        name=task.name,
        allow_quantized_source=task.allow_quantized_source,
    )


def _comparing_texts(task: CompareTextTask) -> _Plan:
    fetched = FetchOptions(
        task.model,
        identify=False,
        disk_limit_bytes=task.disk_limit_bytes,
        name=task.name,
        allow_quantized_source=task.allow_quantized_source,
    )
    return _Plan((Step.FETCH,), lambda run: results.compare_text(run, task), (fetched,))


def _benchmarking(task: BenchmarkTask) -> _Plan:
    options = BenchmarkOptions(
        None if task.checkpoint is None else Path(task.checkpoint),
        task.prompt_tokens,
        task.generate_tokens,
        task.kernels,
    )
    return _Plan((Step.BENCHMARK,), results.benchmark, (options,))


def _stated(budget: AllocationRequest | None, *, is_quantized: bool) -> tuple[StatedBudget, ...]:
    """Return the budget to check as soon as the modules are known, where that tells enough."""
    return () if budget is None or is_quantized else (StatedBudget(budget),)


def _work(
    model: str,
    options: MeasureOptions,
    *,
    baseline: bool = False,
    recover_seconds: float = 0.0,
    relinearizes: bool = False,
    preview: bool | None = None,
) -> Work:
    """Return what is known of the work before anything is done."""
    is_here = Path(model).expanduser().is_dir()
    return Work(
        download_bytes=0 if is_here else _UNKNOWN_DOWNLOAD_BYTES,
        runs=options.sensitivity is not Sensitivity.WEIGHTS,
        effort=options.effort,
        encoder=options.encoder,
        baseline=baseline,
        recover_seconds=recover_seconds,
        relinearizes=relinearizes,
        preview=preview,
    )
