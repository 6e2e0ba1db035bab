"""Which Mac runs a measured model how well: one row per device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlencode

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.guide import GuideRow
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.figures.figure import Cell, Figure, Series

__all__ = ["guide_page"]

_GIB = 2**30


def guide_page(
    measurement: Measurement,
    rows: Sequence[GuideRow],
    context: int,
    runtime: Runtime,
    *,
    mine: str | None,
) -> JsonObject:
    """Return the page; `mine` is the device that the reader chose, named first in its summary."""
    digest, name = measurement.model.digest, words.name_of(measurement.model.name)
    query = urlencode(
        {"measurement": measurement.key, "context": context, "runtime": runtime.value}
    )
    objective = measurement.objective
    fitting = [row for row in rows if row.fits]
    lossy = [row for row in fitting if row.predicted]
    figure = Figure(
        name="guide",
        title="The best checkpoint for every Mac",
        summary=_summary(fitting, len(rows), mine),
        columns=(
            *("Mac", "memory", "room for files", "files", "bits per weight"),
            *(objective.name, "95 %", "tokens/s at most", "most context"),
        ),
        rows=tuple(_row(row) for row in rows),
        series=(
            Series(
                objective.name,
                [row.memory_bytes / _GIB for row in lossy],
                [row.predicted or 0.0 for row in lossy],
                role="ours",
                labels=[row.title for row in lossy],
            ),
        )
        if lossy
        else (),
        x_title="memory of the Mac (GiB)",
        y_title=f"{objective.name} ({objective.unit})",
        y_scale="log",
    )
    return {
        "title": f"{name} on every Mac",
        "section": "Models",
        "twin": f"/models/{digest}/guide.json?{query}",
        "name": name,
        "back": f"/models/{digest}?{urlencode({'measurement': measurement.key})}",
        "address": f"/models/{digest}/guide",
        "csv": f"/models/{digest}/guide.csv?{query}",
        "guide": figure,
        "plot": replace(
            figure,
            title="What more memory buys",
            summary="Lower is closer to the original; Macs that hold it as it is are left out.",
        ),
        "context": context,
        "runtime": runtime.value,
        "runtimes": [each.value for each in Runtime],
        "measurement": measurement.key,
    }


def _row(row: GuideRow) -> tuple[Cell, ...]:
    memory, room = format_size(row.memory_bytes), format_size(max(row.budget_bytes, 0))
    if not row.fits:
        return (row.title, memory, room, "does not fit", *[None] * 5)
    interval = row.interval_95
    return (
        row.title,
        memory,
        room,
        format_size(row.file_bytes),
        round(row.bits_per_weight, 2),
        None if row.predicted is None else words.kl(row.predicted),
        "" if interval is None else f"{words.kl(interval[0])} to {words.kl(interval[1])}",
        round(row.tokens_per_second, 1),
        row.largest_context,
    )


def _summary(fitting: Sequence[GuideRow], count: int, mine: str | None) -> str:
    said = f"{len(fitting)} of {count} hold it. Speed is an upper bound from memory bandwidth."
    own = next((row for row in fitting if row.device == mine), None)
    if own is None:
        return said
    return f"{own.title}: {format_size(own.file_bytes)}, {own.bits_per_weight:.2f} bits. {said}"
