"""Draw an acyclic graph in rows, each box below all that point to it, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import Final
from xml.sax.saxutils import escape

__all__ = ["Box", "Drawing", "draw"]

Box = frozenset[str]

_LINE_HEIGHT: Final = 18
_LETTER_WIDTH: Final = 7.4
_PADDING: Final = 12
_GAP: Final = 26
_ROW_GAP: Final = 64
_MARGIN: Final = 16
_PASSES: Final = 8
_STYLE: Final = """
svg { font: 13px ui-monospace, SFMono-Regular, Menlo, monospace; background: #fff }
rect { fill: #eef3fb; stroke: #5b7db1 } path { fill: none; stroke: #8a94a6; stroke-width: 1.2 }
marker path { fill: #8a94a6; stroke: none } text { fill: #1c2430 }
@media (prefers-color-scheme: dark) { svg { background: #10151d } rect { fill: #1b2738 }
text { fill: #dfe6f0 } }
"""
_ARROW: Final = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
)


@dataclass(frozen=True)
class Drawing:
    """What to draw: the lines of text in each box, and arrows from box to box."""

    title: str
    labels: Mapping[Box, list[str]]
    arrows: set[tuple[Box, Box]]


@dataclass(frozen=True)
class _Place:
    x: float
    y: float
    width: float
    height: float


def draw(drawing: Drawing) -> str:
    """Return the drawing as an SVG document; the same drawing gives the same bytes."""
    rows = _ordered(_rows(drawing), drawing)
    places = _places(rows, drawing)
    width = max(p.x + p.width for p in places.values()) + _MARGIN
    height = max(p.y + p.height for p in places.values()) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {_extent(width, height)} role="img">',
        f"<title>{escape(drawing.title)}</title><style>{_STYLE}</style>{_ARROW}",
    ]
    arrows = sorted(drawing.arrows, key=lambda pair: (sorted(pair[0]), sorted(pair[1])))
    parts += [_arrow(places[a], places[b]) for a, b in arrows]
    parts += [_box(places[box], drawing.labels[box]) for row in rows for box in row]
    return "\n".join([*parts, "</svg>", ""])


def _extent(width: float, height: float) -> str:
    size = f"{width:.0f} {height:.0f}"
    return f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {size}"'


def _rows(drawing: Drawing) -> list[list[Box]]:
    """Return the boxes by how many arrows lead to them at most."""
    depth: dict[Box, int] = {}

    def of(box: Box) -> int:
        if box not in depth:
            above = [of(a) for a, b in drawing.arrows if b == box]
            depth[box] = 1 + max(above, default=-1)
        return depth[box]

    boxes = sorted(drawing.labels, key=sorted)
    last = max(map(of, boxes))
    return [[box for box in boxes if of(box) == row] for row in range(last + 1)]


def _ordered(rows: list[list[Box]], drawing: Drawing) -> list[list[Box]]:
    """Order each row by the mean place of the neighbours, so that fewer arrows cross."""
    for _ in range(_PASSES):
        at = {box: (i + 0.5) / len(row) for row in rows for i, box in enumerate(row)}
        rows = [sorted(row, key=lambda box: (_mean(box, at, drawing), sorted(box))) for row in rows]
    return rows


def _mean(box: Box, at: Mapping[Box, float], drawing: Drawing) -> float:
    near = [at[a] for a, b in drawing.arrows if b == box]
    near += [at[b] for a, b in drawing.arrows if a == box]
    return fsum(near) / len(near) if near else at[box]  # whatever the order of a set


def _places(rows: list[list[Box]], drawing: Drawing) -> dict[Box, _Place]:
    sizes = {box: _size(lines) for box, lines in drawing.labels.items()}
    widths = [sum(sizes[box][0] for box in row) + _GAP * (len(row) - 1) for row in rows]
    places, y = {}, float(_MARGIN)
    for row, width in zip(rows, widths, strict=True):
        x = _MARGIN + (max(widths) - width) / 2
        for box in row:
            places[box] = _Place(x, y, *sizes[box])
            x += sizes[box][0] + _GAP
        y += max(sizes[box][1] for box in row) + _ROW_GAP
    return places


def _size(lines: list[str]) -> tuple[float, float]:
    return max(map(len, lines)) * _LETTER_WIDTH + 2 * _PADDING, len(lines) * _LINE_HEIGHT + _PADDING


def _arrow(start: _Place, end: _Place) -> str:
    x0, y0 = start.x + start.width / 2, start.y + start.height
    x1, y1 = end.x + end.width / 2, end.y
    middle = (y1 - y0) / 2
    curve = f"M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + middle:.0f} {x1:.0f} {y1 - middle:.0f}"
    return f'<path d="{curve} {x1:.0f} {y1:.0f}" marker-end="url(#arrow)"/>'


def _box(place: _Place, lines: list[str]) -> str:
    size = f'width="{place.width:.0f}" height="{place.height:.0f}"'
    shape = f'<rect x="{place.x:.0f}" y="{place.y:.0f}" {size} rx="5"/>'
    x = place.x + _PADDING
    texts = [
        f'<text x="{x:.0f}" y="{place.y + (i + 1) * _LINE_HEIGHT:.0f}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    ]
    return shape + "".join(texts)
