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
_COARSE_KL: Final = 0.3
_NAMED: Final = {f"affine{bits}g64": f"{bits}-bit" for bits in (3, 4, 5, 6, 8)}
"""Uniform formats that people know, drawn with their names."""


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
    rivals = [point for point in uniform if point.name in _NAMED]
    others = [point for point in uniform if point.name not in _NAMED]
    x_range, y_range = _useful(line, [*ours, *measured, *rivals], scale)
    return Figure(
        name="frontier",
        title=f"Size against {objective.label}",
        summary=_summary(line, ours, uniform, objective),
        columns=("kind", "name", "bytes", f"{objective.name} {objective.short_unit}"),
        rows=tuple(rows),
        series=(
            _series("best possible", drawn, scale, kind="line", role="main"),
            _series("uniform", rivals, scale, role="other", named=True),
            _series("other formats and recipes", others, scale, role="other"),
            _series("this answer" if len(ours) == 1 else "answers", ours, scale, role="ours"),
            *([_series("measured", measured, scale, role="main", named=True)] if measured else ()),
        ),
        x_title=f"size of the files ({unit})",
        y_title=f"{objective.name} ({objective.unit})",
        y_scale="log",
        x_range=x_range,
        y_range=y_range,
    )


def _useful(
    line: Sequence[Point], points: Sequence[Point], scale: int
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return the sizes and costs that people choose among: up to 8 bits, never without a point."""
    costs = [point.kl_nats for point in points if point.kl_nats > 0]
    if not costs or not line:
        return None, None
    least, most = line[0].file_bytes, max(point.file_bytes for point in points)
    inside = [p.kl_nats for p in line if p.file_bytes <= most and p.kl_nats > 0]
    margin = 0.06 * max(most - least, 1)
    x_range = ((least - margin) / scale, (most + 2 * margin) / scale)
    return x_range, (min([*costs, *inside]) / 1.5, max([*costs, *inside]) * 1.5)


def _listed(
    line: Sequence[Point], ours: Sequence[Point], uniform: Sequence[Point]
) -> list[tuple[str, Point]]:
    return [
        *(("answer", point) for point in ours),
        *(("uniform", point) for point in uniform),
        *(("frontier", point) for point in thinned(line)),
    ]


def _series(
    name: str,
    points: Sequence[Point],
    scale: int,
    *,
    kind: str = "points",
    role: str,
    named: bool = False,
) -> Series:
    shown = [point for point in points if point.kl_nats > 0]
    return Series(
        name=name,
        x=[point.file_bytes / scale for point in shown],
        y=[point.kl_nats for point in shown],
        kind=kind,
        role=role,
        labels=[] if kind == "line" else [_short(point.name) for point in shown],
        named=named,
    )


def _short(name: str) -> str:
    """Return `4-bit` for a uniform format that is drawn with its name, other names as they are."""
    return _NAMED.get(name, name)


def _summary(
    line: Sequence[Point], ours: Sequence[Point], uniform: Sequence[Point], objective: Objective
) -> str:
    if not line:
        return "There is no frontier."
    most, least, name = line[0], line[-1], objective.name
    text = (
        f"{len(line):,} best allocations from {format_size(most.file_bytes)} at {name} "
        f"{kl(most.kl_nats)} to {format_size(least.file_bytes)} at {name} {kl(least.kl_nats)}."
    )
    if len(ours) == 1:
        text += f" This answer: {format_size(ours[0].file_bytes)} at {name} {kl(ours[0].kl_nats)}."
        text += _against(line, ours[0], uniform, name)
        if objective.is_kl and ours[0].kl_nats > _COARSE_KL:
            text += f" Above {_COARSE_KL} predictions are coarse: measure before relying on it."
    return text


def _against(line: Sequence[Point], ours: Point, uniform: Sequence[Point], name: str) -> str:
    """Compare the best of no more bytes than the nearest uniform 3- to 8-bit with that."""
    rivals = [point for point in uniform if point.name in _NAMED and point.kl_nats > 0]
    rival = min(rivals, key=lambda p: abs(p.file_bytes - ours.file_bytes), default=None)
    if rival is None:
        return ""
    best = [point for point in line if point.file_bytes <= rival.file_bytes]
    size = format_size(rival.file_bytes)
    said = f"uniform {_short(rival.name)} ({size}, {name} {kl(rival.kl_nats)})"
    if not best or not 0 < best[-1].kl_nats < rival.kl_nats:
        return f" Nearest rival: {said}."
    return f" At equal bytes {rival.kl_nats / best[-1].kl_nats:.1f} times less {name} than {said}."
