"""The frontier: the least predicted KL at every size, our point on it, and the uniform ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bitbudget.app.core.sensitivity import KL, Objective
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard.figures.figure import Figure, Series
from bitbudget.app.dashboard.formatting import kl, size_unit

__all__ = ["Point", "frontier_figure", "thinned"]

_DRAWN: Final = 400


@dataclass(frozen=True, slots=True)
class Point:
    """A size with the cost that is minimised there, and a name."""

    name: str
    file_bytes: int
    kl_nats: float


def thinned(points: Sequence[Point], most: int = _DRAWN) -> tuple[Point, ...]:
    """Return at most about `most` of the points, the first and the last among them."""
    if len(points) <= most:
        return tuple(points)
    step = (len(points) - 1) / (most - 1)
    return tuple(points[round(index * step)] for index in range(most))


def frontier_figure(
    line: Sequence[Point],
    ours: Sequence[Point],
    uniform: Sequence[Point],
    measured: Sequence[Point] = (),
    objective: Objective = KL,
) -> Figure:
    """Return the trade of bytes against what is minimised, with what was measured where it was."""
    unit, scale = size_unit(line[-1].file_bytes if line else 0)
    drawn = [point for point in thinned(line) if point.kl_nats > 0]
    listed = [*(("measured", point) for point in measured), *_listed(line, ours, uniform)]
    rows = [(kind, p.name, p.file_bytes, p.kl_nats) for kind, p in listed]
    return Figure(
        name="frontier",
        title=f"Size against {objective.label}",
        summary=_summary(line, ours, uniform, objective.name),
        columns=("kind", "name", "bytes", f"{objective.name} {objective.short_unit}"),
        rows=tuple(rows),
        series=(
            _series("best possible", drawn, scale, kind="line", role="main"),
            _series("uniform formats and recipes", uniform, scale, role="other"),
            _series("this answer" if len(ours) == 1 else "answers", ours, scale, role="ours"),
            *([_series("measured", measured, scale, role="main")] if measured else ()),
        ),
        x_title=f"size of the files ({unit})",
        y_title=f"{objective.name} ({objective.unit})",
        y_scale="log",
    )


def _listed(
    line: Sequence[Point], ours: Sequence[Point], uniform: Sequence[Point]
) -> list[tuple[str, Point]]:
    return [
        *(("answer", point) for point in ours),
        *(("uniform", point) for point in uniform),
        *(("frontier", point) for point in thinned(line)),
    ]


def _series(
    name: str, points: Sequence[Point], scale: int, *, kind: str = "points", role: str
) -> Series:
    shown = [point for point in points if point.kl_nats > 0]
    return Series(
        name=name,
        x=[point.file_bytes / scale for point in shown],
        y=[point.kl_nats for point in shown],
        kind=kind,
        role=role,
        labels=[] if kind == "line" else [point.name for point in shown],
    )


def _summary(
    line: Sequence[Point], ours: Sequence[Point], uniform: Sequence[Point], name: str
) -> str:
    if not line:
        return "There is no frontier."
    most, least = line[0], line[-1]
    text = (
        f"{len(line):,} best allocations from {format_size(most.file_bytes)} at {name} "
        f"{kl(most.kl_nats)} to {format_size(least.file_bytes)} at {name} {kl(least.kl_nats)}."
    )
    if len(ours) != 1:
        return text
    text += f" This answer: {format_size(ours[0].file_bytes)} at {name} {kl(ours[0].kl_nats)}."
    rival = min(uniform, key=lambda p: abs(p.file_bytes - ours[0].file_bytes), default=None)
    if rival is None:
        return text
    size = format_size(rival.file_bytes)
    return f"{text} Nearest uniform: {rival.name}, {size} at {name} {kl(rival.kl_nats)}."
