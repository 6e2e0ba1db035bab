"""Two or more answers side by side: checkpoints of jobs, and what-if budgets on stored curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.reports import Evaluation
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.sensitivity import KL, WEIGHT_ERROR, Objective
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.figures.figure import Cell, Figure, Series
from bitbudget.app.jobs.schemas import Job
from bitbudget.app.models.schemas import Model

__all__ = ["Compared", "compare_page"]

_MEASURED = (
    ("top-1 agreement", "top1_agreement"),
    ("perplexity ratio", "perplexity_ratio"),
)
_TIMED = (
    ("decode tokens/s", "decode_tokens_per_second"),
    ("prefill tokens/s", "prefill_tokens_per_second"),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One answer, and what was measured of its checkpoint if there is one.

    `kind` and `key` are what the page's address calls it: `jobs` and the job's id, or
    `allocations` and `<measurement>@<bytes>`.
    """

    kind: str
    key: str
    manifest: Manifest
    evaluation: Evaluation | None = None
    benchmark: Benchmark | None = None

    @property
    def name(self) -> str:
        """Model and size, short enough for a column."""
        model = words.name_of(self.manifest.model.name)
        mark = self.key[-4:] if self.kind == "jobs" else "what-if"
        return f"{model} {format_size(self.manifest.file_bytes)} ({mark})"

    @property
    def measured(self) -> float | None:
        """Measured KL in nats per token, None where nothing was evaluated."""
        return None if self.evaluation is None else self.evaluation.kl_nats_per_token


def _number(report: Evaluation | Benchmark | None, name: str) -> float | None:
    found: float | None = None if report is None else getattr(report, name)
    return found


def compare_page(
    choices: Iterable[Job], models: Iterable[Model], compared: Sequence[Compared], error: str = ""
) -> JsonObject:
    """Return the form, and the comparison once answers were chosen."""
    query = urlencode([(item.kind, item.key) for item in compared])
    page: JsonObject = {
        "title": "Compare",
        "section": "Compare",
        "twin": f"/compare.json?{query}",
        "choices": [_choice(job) for job in choices],
        "chosen": [item.key for item in compared if item.kind == "jobs"],
        "what_ifs": [
            {"key": item.key, "words": item.name} for item in compared if item.kind != "jobs"
        ],
        "measurements": list(_measurements(models)),
        "csv": lambda name: f"/compare/{name}.csv?{query}",
        "error": error,
        "summary": None,
    }
    if compared:
        page |= {
            "summary": _summary(compared),
            "trade": _trade(compared),
            "differences": _differences(compared),
        }
        page["plot"] = page["trade"]
    return page


def _choice(job: Job) -> dict[str, str]:
    size = "" if job.answer is None else f", {format_size(job.answer.file_bytes)}"
    made = words.when(job.created_at)
    name = words.name_of(job.request.model)
    return {"id": job.id, "words": f"{name}{size}: {words.budget_words(job.request)}, {made}"}


def _measurements(models: Iterable[Model]) -> Iterable[dict[str, str]]:
    for model in models:
        for made in model.measurements:
            said = f"{words.name_of(model.name)} ({made.encoder}, {made.sensitivity})"
            yield {"id": made.id, "words": said}


def _summary(compared: Sequence[Compared]) -> Figure:
    rows: list[tuple[Cell, ...]] = [
        ("bytes of the files", *(c.manifest.file_bytes for c in compared)),
        ("budget", *(c.manifest.budget_bytes for c in compared)),
        *(_predictions(compared, objective) for objective in (KL, WEIGHT_ERROR)),
        ("measured KL, nats", *(c.measured for c in compared)),
        ("lower bound of the prediction", *(c.manifest.certificate.bound for c in compared)),
        ("gap", *(c.manifest.certificate.gap for c in compared)),
        ("encoder", *(c.manifest.encoder.value for c in compared)),
        *((title, *(_number(c.evaluation, key) for c in compared)) for title, key in _MEASURED),
        *((title, *(_number(c.benchmark, key) for c in compared)) for title, key in _TIMED),
    ]
    return Figure(
        name="summary",
        title="Side by side",
        summary=_least(compared),
        columns=("measure", *(c.name for c in compared)),
        rows=tuple(row for row in rows if any(cell is not None for cell in row[1:])),
    )


def _predictions(compared: Sequence[Compared], objective: Objective) -> tuple[Cell, ...]:
    title = f"{objective.label}, {objective.short_unit}"
    own = (_predicted(c) if c.manifest.objective == objective else None for c in compared)
    return (title, *own)


def _least(compared: Sequence[Compared]) -> str:
    goals = {c.manifest.objective for c in compared}
    if len(goals) > 1:
        return "The answers minimise different things: compare what was measured."
    best = min(compared, key=_predicted)
    return f"Least {goals.pop().label}: {best.name} with {words.kl(_predicted(best))}."


def _predicted(item: Compared) -> float:
    return item.manifest.certificate.predicted_kl_nats_per_token


def _trade(compared: Sequence[Compared]) -> Figure:
    known = [c for c in compared if c.measured is not None]
    by_kl = [c for c in compared if c.manifest.objective.is_kl]
    unit, scale = words.size_unit(max(c.manifest.file_bytes for c in compared))
    predicted = Series(
        "predicted",
        [c.manifest.file_bytes / scale for c in by_kl],
        [_predicted(c) for c in by_kl],
        role="ours",
        labels=[c.name for c in by_kl],
    )
    measured = Series(
        "measured",
        [c.manifest.file_bytes / scale for c in known],
        [c.measured or 0.0 for c in known],
        role="main",
        labels=[c.name for c in known],
    )
    return Figure(
        name="trade",
        title="Size against KL",
        summary="; ".join(
            f"{c.name}: {c.manifest.objective.label} {words.kl(_predicted(c))}"
            + ("" if c.measured is None else f", measured {words.kl(c.measured)}")
            for c in compared
        )
        + ".",
        columns=("answer", "bytes", "predicted KL nats", "measured KL nats"),
        rows=tuple(
            (c.name, c.manifest.file_bytes, _predicted(c) if c in by_kl else None, c.measured)
            for c in compared
        ),
        series=(predicted, measured) if known else (predicted,),
        x_title=f"size of the files ({unit})",
        y_title="KL (nats per token)",
        y_scale="log",
    )


def _differences(compared: Sequence[Compared]) -> Figure:
    paths = list(dict.fromkeys(path for c in compared for path in c.manifest.modules))
    rows: list[tuple[Cell, ...]] = []
    for path in paths:
        chosen = [c.manifest.modules.get(path) for c in compared]
        names = [None if choice is None else str(choice.format) for choice in chosen]
        if len(set(names)) > 1:
            rows.append((path, *names))
    return Figure(
        name="differences",
        title="Modules stored differently",
        summary=f"{len(rows)} of {len(paths)} modules differ.",
        columns=("module", *(c.name for c in compared)),
        rows=tuple(rows),
    )
