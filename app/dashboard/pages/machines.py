"""The machines that work, and how fast the checkpoints run on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.figures.figure import Cell, Figure, Series
from bitbudget.app.jobs.schemas import JobReport
from bitbudget.app.workers.schemas import Worker

__all__ = ["benchmarks_page", "machines_page"]

_SPEED = (
    ("decode_tokens_per_second", "decode tokens/s"),
    ("prefill_tokens_per_second", "prefill tokens/s"),
    ("time_to_first_token_seconds", "first token s"),
    ("peak_memory_bytes", "peak memory bytes"),
    ("roofline_fraction", "of the roofline"),
)
_MACHINE = ("MLX", "system")


def machines_page(workers: Iterable[Worker]) -> JsonObject:
    """Return the registered workers."""
    known = list(workers)
    rows = tuple(
        (
            worker.name,
            _state(worker),
            worker.capabilities.chip,
            format_size(worker.capabilities.memory_bytes),
            worker.capabilities.backend,
            worker.capabilities.mlx_version,
            words.when(worker.seen_at),
        )
        for worker in known
    )
    online = sum(worker.online for worker in known)
    busy = sum(worker.job_id is not None for worker in known)
    figure = Figure(
        name="machines",
        title="Workers",
        summary=f"{len(rows)} registered, {online} online, {busy} at work.",
        columns=("name", "state", "chip", "memory", "backend", "MLX", "last seen"),
        rows=rows,
    )
    return {
        "title": "Machines",
        "section": "Machines",
        "twin": "/machines.json",
        "machines": figure,
    }


def _state(worker: Worker) -> str:
    if worker.job_id is not None:
        return f"at work on job {worker.job_id}"
    return "online, idle" if worker.online else "offline"


def benchmarks_page(reports: Sequence[JobReport]) -> JsonObject:
    """Return the benchmarks of finished checkpoints across machines."""
    timed = [(report, report.benchmark) for report in reports if report.benchmark is not None]
    rows = tuple(_row(report, found) for report, found in timed)
    figure = Figure(
        name="speed",
        title="Speed by checkpoint and machine",
        summary=f"{len(rows)} timed.",
        columns=(
            *("checkpoint", "machine", "bytes", *(title for _, title in _SPEED)),
            *("of the prediction", *_MACHINE),
        ),
        rows=rows,
    )
    unit, scale = words.size_unit(max((int(row[2] or 0) for row in rows), default=0))
    plot = Figure(
        name="speed",
        title="Decoding speed against size",
        summary=_fastest(rows),
        columns=figure.columns,
        rows=rows,
        series=_series(rows, scale),
        x_title=f"size of the files ({unit})",
        y_title="decode tokens per second",
    )
    return {
        "title": "Benchmarks",
        "section": "Benchmarks",
        "twin": "/benchmarks.json",
        "speed": figure,
        "links": [f"/jobs/{report.job.id}" for report, _ in timed],
        "plot": plot,
    }


def _row(report: JobReport, found: Benchmark) -> tuple[Cell, ...]:
    job = report.job
    name = f"{words.name_of(job.request.model)} ({job.id[-4:]})"
    expected = found.prediction
    ratio = None if expected is None else expected.measured_over_predicted
    nbytes = None if job.answer is None else job.answer.file_bytes
    speed = (getattr(found, key) for key, _ in _SPEED)
    software = (found.device.versions.get("mlx", ""), found.device.system)
    return (name, found.device.chip, nbytes, *speed, ratio, *software)


def _series(rows: Sequence[tuple[Cell, ...]], scale: int) -> tuple[Series, ...]:
    roles = ("main", "ours", "other")
    machines = list(dict.fromkeys(str(row[1]) for row in rows))
    return tuple(
        Series(
            machine,
            [float(row[2] or 0) / scale for row in rows if row[1] == machine],
            [float(row[3] or 0) for row in rows if row[1] == machine],
            role=roles[index % len(roles)],
            labels=[str(row[0]) for row in rows if row[1] == machine],
        )
        for index, machine in enumerate(machines)
    )


def _fastest(rows: Sequence[tuple[Cell, ...]]) -> str:
    known = [row for row in rows if isinstance(row[3], (int, float))]
    if not known:
        return "No decoding speed was recorded."
    best = max(known, key=lambda row: float(row[3] or 0))
    return f"Fastest: {best[0]} with {best[3]:,.1f} tokens per second on {best[1]}."
