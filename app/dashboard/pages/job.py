"""One job: how far it is, or what it came to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.reports import Evaluation, Revision
from bitbudget.app.contract.steps import Step, steps_of
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.decode import speed_basis
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.kv import running_bytes
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.requests import Deliver
from bitbudget.app.core.sensitivity import objective_of
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.figures.figure import Cell, Figure
from bitbudget.app.dashboard.figures.frontier import Point
from bitbudget.app.dashboard.figures.parts import Bar
from bitbudget.app.dashboard.figures.rivals import equal_bytes
from bitbudget.app.dashboard.pages.answer import Solved, answer_figures
from bitbudget.app.dashboard.pages.held import Held, held_part
from bitbudget.app.dashboard.pages.jobs import job_line
from bitbudget.app.dashboard.pages.tiles import answer_tiles, evaluation_tiles
from bitbudget.app.dashboard.taking import taking
from bitbudget.app.jobs.labels import LONGEST_NOTE
from bitbudget.app.jobs.schemas import Job, JobEvent, JobReport
from bitbudget.app.jobs.status import EventKind, JobStatus

__all__ = ["job_page"]

_METRICS = (
    ("kl_nats_per_token", "KL, nats per token"),
    ("top1_agreement", "top-1 agreement"),
    ("perplexity_ratio", "perplexity ratio"),
    ("noise_floor", "noise floor, nats per token"),
    ("tokens", "tokens"),
)


def job_page(
    report: JobReport,
    solved: Solved | None,
    memory: Bar | None,
    notes: Sequence[JobEvent] = (),
    held: Held | None = None,
    *,
    source: str = "",
) -> JsonObject:
    """Return what a job's page shows; `solved` once it has an answer.

    `notes` are lines of its log and why attempts were lost; `held` is about a checkpoint that a
    worker has; `source` is where its measurement came from if no worker of this server made it.
    """
    job = report.job
    page: JsonObject = {
        "title": words.name_of(job.request.model),
        "section": "Jobs",
        "twin": f"/jobs/{job.id}.json",
        "job": _head(job),
        "problem": _problem(job),
        "checkpoint": None if job.result is None else job.result.checkpoint,
        "answer": None,
        "taking": None,
        "memory": memory,
        "tables": list(_tables(report, solved)),
        "unreadable": list(job.unreadable),
        "log": [_note(event) for event in notes],
        "source": source,
        "held": None if held is None else held_part(held, job),
    }
    if solved is not None:
        page |= answer_figures(solved, list(_measured(report, solved)))
        page["answer"] = {
            "tiles": [*evaluation_tiles(report.evaluation), *answer_tiles(solved.manifest)],
            "what_if": _what_if(solved),
            "manifest_sha256": solved.manifest.sha256,
            "revision": _revision_words(job),
            "revisions": [_revision(job, each) for each in job.revisions],
            "notes": list(solved.manifest.notes),
        }
        page["taking"] = taking(solved.manifest, job.request, page["checkpoint"])
        page["tables"] += list(_kv_cache(solved.manifest))
        page["cell_link"] = lambda path: _what_if(solved, path)
    return page


def _measured(report: JobReport, solved: Solved) -> Iterator[Point]:
    """Give what was measured of the checkpoint and of its rival."""
    if report.evaluation is not None:
        nats = report.evaluation.kl_nats_per_token
        yield Point("this answer", solved.manifest.file_bytes, nats)
    baseline = None if report.job.result is None else report.job.result.baseline
    if baseline is not None:
        uniform = baseline.uniform
        nats = uniform.evaluation.kl_nats_per_token
        yield Point(f"uniform {uniform.format}", uniform.file_bytes, nats)


def _note(event: JobEvent) -> dict[str, str]:
    lost = event.kind is EventKind.REQUEUED
    told = f"attempt lost: {event.data.get('reason')}" if lost else str(event.data.get("detail"))
    return {"at": event.at.isoformat(), "when": words.when(event.at), "words": told}


def _what_if(solved: Solved, module: str | None = None) -> str:
    query = {"measurement": solved.measurement.key, "budget": solved.manifest.budget_bytes}
    if module is not None:
        query["module"] = module
    return f"/models/{solved.measurement.model.digest}?{urlencode(query)}"


def _head(job: Job) -> JsonObject:
    progress = job.progress
    return {
        **job_line(job),
        "open": not job.status.is_final,
        "effort": job.request.effort.value,
        "encoder": job.request.encoder.value,
        "sensitivity": job.request.sensitivity.value,
        "worker": None if job.worker is None else _worker(job),
        "steps": _steps(job),
        "progress": None
        if progress is None
        else {"fraction": progress.job_fraction, "words": words.progress_words(progress)},
        "waiting": "Starting." if job.status is JobStatus.RUNNING else "Waiting for a worker.",
        "took": _took(job),
        "can_make": job.answer is not None and job.request.deliver is Deliver.MANIFEST,
        "cancel_requested": job.cancel_requested,
        "tag_text": " ".join(job.tags),
        "longest_note": LONGEST_NOTE,
        "attempt": job.attempt,
    }


def _revision_words(job: Job) -> str:
    """Return which answer this is, and whether a better one is to come."""
    if job.answer is None:
        return ""
    number, effort = job.answer.revision, job.answer.effort
    if effort is job.request.effort or job.request.max_minutes is not None:
        return f"Answer {number}, at {effort} effort."
    ending = "refines it now" if not job.status.is_final else "did not come to refine it"
    return f"Answer {number}, a first one at {effort} effort; {job.request.effort} effort {ending}."


def _revision(job: Job, answer: Revision) -> JsonObject:
    """Return one line of the list of answers."""
    goal = objective_of(answer.sensitivity)
    cost = words.kl(answer.predicted_kl_nats_per_token)
    return {
        "number": answer.revision,
        "words": f"{answer.effort} effort: {format_size(answer.file_bytes)},"
        f" {answer.bits_per_weight:.2f} bits per weight, {goal.label} {cost} {goal.unit}",
        "manifest": f"/v1/jobs/{job.id}/manifest?revision={answer.revision}",
    }


def _took(job: Job) -> str:
    """Return how long an ended job was worked on."""
    if job.finished_at is None:
        return ""
    if job.started_at is None:
        return "never started"
    return f"took {duration_words((job.finished_at - job.started_at).total_seconds())}"


def _worker(job: Job) -> str:
    if job.worker is None:
        return ""
    return f"{job.worker.name} ({job.worker.capabilities.chip})"


def _steps(job: Job) -> list[dict[str, str]]:
    """Return the steps of the request and that of the moment, each done, now or later."""
    now = job.progress.step if job.progress is not None else None
    asked = steps_of(job.request)
    steps = [step for step in Step if step in asked or step is now]
    at = steps.index(now) if now is not None else -1
    states = ["done" if i < at else "now" if i == at else "later" for i in range(len(steps))]
    return [
        {"name": step.value, "label": step.label, "state": state}
        for step, state in zip(steps, states, strict=True)
    ]


def _problem(job: Job) -> JsonObject | None:
    if job.problem is None:
        return None
    return {
        "title": job.problem.title,
        "detail": job.problem.detail,
        "minimum_bytes": job.problem.fields.minimum_bytes,
    }


def _tables(report: JobReport, solved: Solved | None) -> Iterator[Figure]:
    baseline = None if report.job.result is None else report.job.result.baseline
    if baseline is not None:
        yield equal_bytes(baseline, objective_of(report.job.request.sensitivity))
    if report.evaluation is not None:
        yield _evaluation(report.evaluation)
    if report.benchmark is not None:
        yield _benchmark(report.benchmark, solved)


def _evaluation(report: Evaluation) -> Figure:
    low, high = report.kl_interval_95
    rows = tuple((title, getattr(report, name)) for name, title in _METRICS)
    return Figure(
        name="evaluation",
        title="Evaluation against the original",
        summary=(
            f"KL {words.kl(report.kl_nats_per_token)} nats per token, 95 % interval "
            f"{words.kl(low)} to {words.kl(high)}, over {report.tokens:,} tokens."
        ),
        columns=("measure", "this checkpoint"),
        rows=rows,
    )


def _benchmark(report: Benchmark, solved: Solved | None) -> Figure:
    """Return what was timed, and beside it what was predicted of speed and memory."""
    predicted = dict(_predicted(report, solved))
    figures = [
        (name.replace("_", " "), value, predicted.get(name))
        for name, value in report.figures()
        if name != "predicted_tokens_per_second"
    ]
    basis = ""
    if report.prediction is not None:
        on_gpu = report.device.backend == "metal"
        basis = speed_basis(report.bandwidth_bytes_per_second, on_gpu=on_gpu)
    rows: list[tuple[Cell, ...]] = [("machine", report.device.chip, None), *figures]
    return Figure(
        name="benchmark",
        title="Benchmark",
        summary=f"Speed and memory on the machine that made the checkpoint. {basis}".rstrip(),
        columns=("measure", "measured", "predicted"),
        rows=tuple(rows),
    )


def _predicted(report: Benchmark, solved: Solved | None) -> Iterator[tuple[str, float]]:
    if report.prediction is not None:
        yield "decode_tokens_per_second", report.prediction.decode_tokens_per_second
    if solved is not None and report.prompt_tokens and report.generate_tokens:
        manifest, tokens = solved.manifest, report.prompt_tokens + report.generate_tokens
        parts = running_bytes(
            solved.measurement.inventory, tokens, manifest.kv_formats, manifest.request.runtime
        )
        yield "peak_memory_bytes", manifest.file_bytes + sum(parts)


def _kv_cache(manifest: Manifest) -> Iterator[Figure]:
    """Give the format of each layer's KV cache, where it was chosen with the weights."""
    choices = manifest.kv_cache
    if choices is None:
        return
    every = [choice for sides in choices.values() for choice in sides.values()]
    total = sum(choice.bytes for choice in every)
    cost = sum(choice.kl_nats for choice in every)
    yield Figure(
        name="kv-cache",
        title="KV cache by layer",
        summary=(
            f"{total:,} bytes at {manifest.request.context:,} tokens, {words.kl(cost)} nats per"
            " token of the prediction. bitbudget.load makes these caches."
        ),
        columns=("layer", "of", "format", "bytes", "KL, nats per token"),
        rows=tuple(
            (layer, side.value, str(choice.format), choice.bytes, choice.kl_nats)
            for layer, sides in choices.items()
            for side, choice in sides.items()
        ),
    )
