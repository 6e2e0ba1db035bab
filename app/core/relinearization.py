"""Costs of decision groups measured in context, for allocations of few bits per weight.

Costs are additive only while errors are small. Below 3.5 bits per weight each group's error is
measured alone and in the context of all other errors; the average of the two is the trapezoid rule
for the path from the original to the allocation, and sums to the KL of the whole allocation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.calibration import UNCALIBRATED, Calibration
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import Curve, Measurement

__all__ = [
    "LOW_BITS_PER_WEIGHT",
    "MOST_DISAGREEMENT",
    "GroupCosts",
    "anchored",
    "bits_per_weight",
    "judged",
    "relinearized",
    "scaled",
]

LOW_BITS_PER_WEIGHT: Final = 3.5
"""Mean bits of the modules that can be quantized, below which errors are measured together."""
MOST_DISAGREEMENT: Final = 1.5
"""Ratio of the sums alone and in context from which an allocation carries a warning."""
_MOST_CHANGE: Final = 4.0
"""No curve is scaled by more than this, up or down: a few rollouts know no better."""


@dataclass(frozen=True, slots=True)
class GroupCosts:
    """KL in nats per token of an allocation, and of each decision group, alone and in context.

    `alone`: only this group is quantized. `beside`: how much less is lost when this group alone is
    restored in the quantized model.
    """

    whole: float
    alone: Mapping[str, float]
    beside: Mapping[str, float]

    @property
    def disagreement(self) -> float:
        """The ratio of the larger of the two sums to the smaller, 1 where costs are additive."""
        low, high = sorted((sum(self.alone.values()), sum(self.beside.values())))
        return high / low if low > 0 else float("inf") if high > 0 else 1.0


def bits_per_weight(inventory: Inventory, formats: Mapping[str, Format]) -> float:
    """Return the mean bits of the modules that some format can store; 0 where there is none."""
    modules = [module for module in inventory.modules if set(module.legal_formats()) - {KEEP}]
    nbytes = sum(formats[m.path].data_bytes(m.shape, m.dtype) for m in modules)
    return 8 * nbytes / max(sum(module.weights for module in modules), 1)


def relinearized(
    measurement: Measurement, formats: Mapping[str, Format], costs: GroupCosts, share: float
) -> Measurement:
    """Return the measurement with each group's curves scaled to what its error was seen to cost.

    `share` is the weight of the cost in context, 0 to 1. What was seen is KL already:
    the result is not calibrated.
    """
    curves = {curve.path: curve for curve in measurement.curves}
    changed = dict(curves)
    for name, modules in measurement.inventory.decision_groups().items():
        paths = [module.path for module in modules]
        known = sum(curves[path].point(formats[path]).kl_nats for path in paths)
        if known > 0 and name in costs.alone:
            seen = share * costs.beside[name] + (1 - share) * costs.alone[name]
            factor = min(max(seen / known, 1 / _MOST_CHANGE), _MOST_CHANGE)
            changed |= {path: scaled(curves[path], factor) for path in paths}
    found = tuple(changed[c.path] for c in measurement.curves)
    return replace(measurement, curves=found, calibration=UNCALIBRATED)


def anchored(
    measurement: Measurement,
    formats: Mapping[str, Format],
    kl_nats: float,
    log_error: float = 0.0,
) -> Measurement:
    """Return the measurement scaled so that `formats` cost `kl_nats` per token.

    `log_error` is the standard error of the logarithm of that, which intervals are made of.
    """
    known = measurement.cost(formats)
    if known <= 0 or kl_nats <= 0:
        return measurement
    factor = kl_nats / known
    found = tuple(scaled(c, factor) for c in measurement.curves)
    law = Calibration((kl_nats,), (kl_nats,), (log_error,))
    return replace(measurement, curves=found, calibration=law)


def judged(measurement: Measurement, best: Allocation, chosen: Allocation) -> Allocation:
    """Return `chosen` with its certificate in terms of `measurement`, whose optimum is `best`."""
    predicted = measurement.predicted_kl(chosen.formats)
    if dict(chosen.formats) == dict(best.formats):
        return replace(best, notes=chosen.notes)
    bound = min(best.bound, predicted)
    return replace(
        chosen,
        predicted_kl_nats_per_token=predicted,
        interval_95=measurement.calibration.interval_95(measurement.cost(chosen.formats)),
        bound=bound,
        gap=(predicted - bound) / predicted if predicted > 0 else 0.0,
        shadow_price_nats_per_byte=best.shadow_price_nats_per_byte,
        status="feasible",
        stopped_by="the least measured KL was chosen",
    )


def scaled(curve: Curve, factor: float) -> Curve:
    """Return the curve with every cost multiplied by `factor`."""
    points = tuple(replace(point, kl_nats=point.kl_nats * factor) for point in curve.points)
    return replace(curve, points=points)
