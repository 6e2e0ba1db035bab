"""Correct predicted KL by what random mixed allocations measured.

The Fisher information leaves out what is not quadratic: a router whose choice flips (KL grows with
the error, not its square), errors that interact at few bits, and that a compensated encoder is
judged by the statistics it was fitted to. All of it depends on how large the whole error is, so a
power law of the total, fitted on a handful of allocations, corrects most.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from app.core.formats import KEEP, Format, Mode
from app.core.measurement import Curve, CurvePoint

__all__ = ["PowerLaw", "calibrated", "fit_power_law"]

_FEWEST: Final = 4
_PRIOR: Final = 2.0
"""Weight of the exponent 1 in the fit, in squared e-folds of predicted KL."""
_MOST: Final = 3.0
"""No point is corrected by a larger factor than this, up or down."""

_Width = tuple[Mode, int]


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """measured = exp(offset) * predicted ** exponent, in nats per token."""

    offset: float = 0.0
    exponent: float = 1.0

    def factor(self, predicted: float) -> float:
        """Return measured / predicted at this much predicted KL of the whole model."""
        if predicted <= 0:
            return 1.0
        found = math.exp(self.offset + (self.exponent - 1) * math.log(predicted))
        return min(max(found, 1 / _MOST), _MOST)


def fit_power_law(predicted: Sequence[float], measured: Sequence[float]) -> PowerLaw:
    """Fit by least squares of the logarithms; the identity when there are fewer than 4 points."""
    pairs = [(p, m) for p, m in zip(predicted, measured, strict=True) if p > 0 and m > 0]
    if len(pairs) < _FEWEST:
        return PowerLaw()
    x, y = np.log(np.asarray(pairs)).T
    spread = x - x.mean()
    slope = float(spread @ (y - x)) / (float(spread @ spread) + _PRIOR)
    return PowerLaw(float((y - x).mean() - slope * x.mean()), 1 + slope)


def calibrated(curves: Mapping[str, Curve], law: PowerLaw) -> dict[str, Curve]:
    """Return the curves with each format corrected at the KL of a model all of that many bits."""
    totals = _totals(curves)
    return {
        path: replace(curve, points=_points(curve, law, totals)) for path, curve in curves.items()
    }


def _points(curve: Curve, law: PowerLaw, totals: Mapping[_Width, float]) -> tuple[CurvePoint, ...]:
    return tuple(
        point
        if point.format == KEEP
        else replace(point, kl_nats=point.kl_nats * law.factor(totals[_width(point.format)]))
        for point in curve.points
    )


def _totals(curves: Mapping[str, Curve]) -> dict[_Width, float]:
    """Return the KL of a model in which every module that can has this width, at a mean group."""
    totals: dict[_Width, float] = defaultdict(float)
    for curve in curves.values():
        costs: dict[_Width, list[float]] = defaultdict(list)
        for point in curve.points:
            costs[_width(point.format)].append(point.kl_nats)
        for width, values in costs.items():
            totals[width] += sum(values) / len(values)
    return totals


def _width(format_: Format) -> _Width:
    return format_.mode, format_.bits
