"""A figure: a drawing, the sentence that says what it shows, and the table behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.http.csv_lines import csv_line

__all__ = ["Cell", "Figure", "Series"]

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Series:
    """One set of points of a figure; `kind` is `line` or `points`.

    `role` picks the colour from the style sheet: `main`, `ours`, `other` or `faint`. `named` draws
    the labels beside the points.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str = "points"
    role: str = "main"
    labels: Sequence[str] = ()
    named: bool = False

    def document(self) -> JsonObject:
        """Return the series for the page's script."""
        return {
            "name": self.name,
            "x": list(self.x),
            "y": list(self.y),
            "kind": self.kind,
            "role": self.role,
            "labels": list(self.labels),
            "named": self.named,
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its text summary and its table; `name` is its CSV's file name.

    A range is what is drawn at first; without one all points are.
    """

    name: str
    title: str
    summary: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    series: tuple[Series, ...] = ()
    x_title: str = ""
    y_title: str = ""
    x_scale: str = "linear"
    y_scale: str = "linear"
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def csv(self) -> str:
        """Return the table as RFC 4180 text."""
        return "".join(csv_line(row, end="\r\n") for row in (self.columns, *self.rows))

    def plot(self) -> JsonObject:
        """Return what the page's script draws."""
        return {
            "series": [series.document() for series in self.series],
            "x": {"title": self.x_title, "scale": self.x_scale, "range": self.x_range},
            "y": {"title": self.y_title, "scale": self.y_scale, "range": self.y_range},
        }

    def document(self) -> JsonObject:
        """Return the figure for the page's `.json` twin."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "plot": self.plot() if self.series else None,
            **self.extra,
        }
