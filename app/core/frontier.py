"""All budgets at once: every breakpoint of the rate-distortion frontier of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bitbudget.app.core.baselines import MIXED_RECIPES, mixed_formats, uniform_formats
from bitbudget.app.core.candidates import (
    ExactSizes,
    Rules,
    as_problem,
    decision_groups,
)
from bitbudget.app.core.formats import LOSSY_FORMATS, Format
from bitbudget.app.core.layout import CheckpointLayout, plan_checkpoint
from bitbudget.app.core.mckp import Limits, prepare
from bitbudget.app.core.mckp.single.many import solve_many
from bitbudget.app.core.measurement import CurvePoint, Measurement
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB

__all__ = ["Frontier", "FrontierPoint", "MarkedPoint", "frontier", "solve_budgets"]


class FrontierPoint(NamedTuple):
    """An allocation that no other beats on both numbers: exact bytes and predicted KL."""

    file_bytes: int
    kl_nats_per_token: float


class MarkedPoint(NamedTuple):
    """What a known recipe gives, `affine4g64` or `mixed_3_6`: exact bytes and predicted KL."""

    name: str
    file_bytes: int
    kl_nats_per_token: float


@dataclass(frozen=True, slots=True)
class Frontier:
    """The lower frontier, and the recipes that others use.

    Every breakpoint is an allocation. It is convex in what curves add up to: between two neighbours
    the line is a lower bound on that of any allocation, and its slope the price of a byte.
    `breakpoints` rise in bytes; the first one is every module in its smallest offered format.
    """

    breakpoints: tuple[FrontierPoint, ...]
    uniform: tuple[MarkedPoint, ...]
    recipes: tuple[MarkedPoint, ...]

    @property
    def smallest_bytes(self) -> int:
        """Bytes of the smallest allocation that the rules allow."""
        return self.breakpoints[0].file_bytes


def frontier(
    measurement: Measurement,
    *,
    sqnr_floor_db: float = DEFAULT_SQNR_FLOOR_DB,
    formats: tuple[Format, ...] | None = None,
    pins: Mapping[str, Format] | None = None,
    floors: Mapping[str, int] | None = None,
    max_points: int = 20_000,
) -> Frontier:
    """Return every breakpoint in one pass, thinned evenly when there are more than `max_points`.

    Raises InvalidRequestError as `allocate` does.
    """
    rules = Rules(formats, sqnr_floor_db, pins or {}, floors or {})
    layout = plan_checkpoint(measurement.inventory)
    prepared = prepare(as_problem(decision_groups(measurement, rules), layout.fixed_bytes))
    least = math.fsum(prepared.costs[prepared.offsets[1:] - 1].tolist())
    count = prepared.reached_bytes.size
    kept = np.unique(np.linspace(0, count - 1, min(count, max_points)).round().astype(np.int64))
    bytes_ = prepared.reached_bytes[kept].tolist()
    costs = map(measurement.calibration.kl, (least + prepared.excess_cost[kept]).tolist())
    return Frontier(
        breakpoints=tuple(map(FrontierPoint._make, zip(bytes_, costs, strict=True))),
        uniform=_uniform_points(measurement, layout),
        recipes=_recipe_points(measurement, layout),
    )


def solve_budgets(
    measurement: Measurement,
    budgets: Sequence[int],
    rules: Rules | None = None,
    relative_gap: float = 1e-5,
) -> tuple[FrontierPoint, ...]:
    """Return exact bytes and predicted KL of a certified allocation for each of many budgets.

    Raises InfeasibleBudgetError when the smallest budget is too small.
    """
    fixed = plan_checkpoint(measurement.inventory).fixed_bytes
    prepared = prepare(as_problem(decision_groups(measurement, rules or Rules()), fixed))
    many = solve_many(prepared, budgets, Limits(relative_gap=relative_gap))
    expected = map(measurement.calibration.kl, many.objective.tolist())
    points = zip(many.bytes.tolist(), expected, strict=True)
    return tuple(map(FrontierPoint._make, points))


def _uniform_points(measurement: Measurement, layout: CheckpointLayout) -> tuple[MarkedPoint, ...]:
    named = {
        str(format_): uniform_formats(measurement.inventory, format_) for format_ in LOSSY_FORMATS
    }
    return _marked(measurement, layout, named)


def _recipe_points(measurement: Measurement, layout: CheckpointLayout) -> tuple[MarkedPoint, ...]:
    named = {name: mixed_formats(measurement.inventory, name) for name in MIXED_RECIPES}
    return _marked(measurement, layout, named)


def _marked(
    measurement: Measurement,
    layout: CheckpointLayout,
    named: Mapping[str, Mapping[str, Format]],
) -> tuple[MarkedPoint, ...]:
    """Return the points that mlx-lm can make and whose every choice was measured."""
    curves = {
        curve.path: {point.format: point for point in curve.points} for curve in measurement.curves
    }
    sizes = ExactSizes()
    points = []
    for name, formats in named.items():
        cost = _cost(curves, formats)
        if formats and cost is not None:
            total = sum(sizes.of(m, formats[m.path]) for m in layout.inventory.modules)
            expected = measurement.calibration.kl(cost)
            points.append(MarkedPoint(name, layout.fixed_bytes + total, expected))
    return tuple(points)


def _cost(
    curves: Mapping[str, Mapping[Format, CurvePoint]], formats: Mapping[str, Format]
) -> float | None:
    chosen = [curves[path].get(format_) for path, format_ in formats.items()]
    measured = [point.kl_nats for point in chosen if point is not None]
    return math.fsum(measured) if len(measured) == len(chosen) else None
