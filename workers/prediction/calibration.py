"""Correct predicted KL by what checkpoints measured.

The Fisher information leaves out what is not quadratic (a router whose choice flips, errors that
interact at few bits) and that a compensated encoder is judged by the statistics it was fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.calibration import Calibration, CheckpointKl
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.measurement import Curve, Measurement
from bitbudget.app.core.relinearization import scaled
from bitbudget.app.core.requests import AllocationRequest

__all__ = ["CHECKPOINTS", "calibrated", "common_factor"]

_MIDDLE_BITS: Final = 4.5
_BITS: Final = (3.0, _MIDDLE_BITS, 8.0)
"""Bits per weight of the checkpoints that are measured whole; where bits are few, runs measure each
answer. Each costs what quantizing the model does."""
CHECKPOINTS: Final = len(_BITS)
_MOST: Final = 3.0
"""No prediction is corrected by a larger factor than this, up or down."""


def common_factor(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the geometric mean of measured / predicted; 1 where nothing is above zero."""
    pairs = [(p, m) for p, m in zip(predicted, measured, strict=True) if p > 0 and m > 0]
    if not pairs:
        return 1.0
    x, y = np.log(np.asarray(pairs)).T
    return float(np.clip(np.exp((y - x).mean()), 1 / _MOST, _MOST))


def calibrated(
    measurement: Measurement, measure: Callable[[Mapping[str, Format]], float]
) -> tuple[dict[str, Curve], Calibration]:
    """Return the curves scaled to what a checkpoint measured, and what is left to correct.

    `measure` returns the KL in nats per token of an allocation, coded as a finished checkpoint is.
    What is allocated at 3 to 8 bits per weight is measured: all curves are scaled by what that of
    4.5 bits is over its prediction, and the calibration goes through all. One factor for all
    curves leaves the ranking of allocations as it is; a correction per width trades widths wrongly
    and costs more than it explains.
    """
    found = {
        bits: (measurement.cost(formats), measure(formats))
        for bits, formats in _allocations(measurement)
    }
    middle = [found[_MIDDLE_BITS]] if _MIDDLE_BITS in found else list(found.values())
    factor = common_factor(*zip(*middle, strict=True)) if middle else 1.0
    curves = {curve.path: scaled(curve, factor) for curve in measurement.curves}
    pairs = (CheckpointKl(cost * factor, _near(cost * factor, kl)) for cost, kl in found.values())
    return curves, Calibration.through(pairs)


def _near(cost: float, kl: float) -> float:
    return float(np.clip(kl, cost / _MOST, cost * _MOST))


def _allocations(measurement: Measurement) -> Iterator[tuple[float, Mapping[str, Format]]]:
    """Yield the allocation of each of the sizes, where it is feasible."""
    inventory = measurement.inventory
    fixed = plan_checkpoint(inventory).fixed_bytes
    movable = 0
    for module in inventory.modules:
        if set(module.legal_formats()) - {KEEP}:
            movable += module.weights
        else:
            fixed += KEEP.data_bytes(module.shape, module.dtype)
    for bits in _BITS:
        request = AllocationRequest(budget=fixed + int(bits * movable / 8), sqnr_floor_db=0)
        try:
            yield bits, allocate(measurement, request).formats
        except InfeasibleBudgetError:
            continue
