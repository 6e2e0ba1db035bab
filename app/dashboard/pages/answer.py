"""What the pages show of one allocation: certificate, frontier, formats, parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.dashboard.figures.frontier import Point, frontier_figure
from bitbudget.app.dashboard.figures.heatmap import heatmap
from bitbudget.app.dashboard.figures.int8 import int8_figure
from bitbudget.app.dashboard.figures.parts import file_parts
from bitbudget.app.dashboard.figures.verification import verification_figure

__all__ = ["Solved", "Trade", "answer_figures"]


@dataclass(frozen=True, slots=True)
class Trade:
    """The frontier of a measured model, smallest first, and its uniform allocations."""

    line: tuple[Point, ...]
    uniform: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Solved:
    """A measured model and one answer for it."""

    measurement: Measurement
    trade: Trade
    manifest: Manifest


def answer_figures(solved: Solved, measured: Sequence[Point] = ()) -> JsonObject:
    """Return the figures that a job's page and a model's page share."""
    manifest, measurement = solved.manifest, solved.measurement
    formats = manifest.formats
    predicted = manifest.certificate.predicted_kl_nats_per_token
    ours = Point("this answer", manifest.file_bytes, predicted)
    return {
        "frontier": frontier_figure(
            solved.trade.line,
            [ours],
            solved.trade.uniform,
            measured if measurement.objective.is_kl else (),
            measurement.objective,
        ),
        "heatmap": heatmap(measurement.inventory, formats),
        "parts": file_parts(measurement.inventory, formats, manifest.budget_bytes),
        "verification": verification_figure(measurement),
        "int8": int8_figure(measurement, manifest),
    }
