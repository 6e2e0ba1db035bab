"""Whole checkpoints that calibrate predicted KL: which they are, and the law through them.

The Fisher information leaves out what is not quadratic (a router whose choice flips, errors that
interact at few bits) and that a compensated encoder is judged by the statistics it was fitted to:
on SmolLM2-135M a checkpoint loses twice the sum of its curves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.calibration import Calibration, CheckpointKl
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest

__all__ = ["MIDDLE_BITS", "calibration_allocations", "common_factor", "law_through"]

MIDDLE_BITS: Final = 4.5
_BITS: Final = (3.0, MIDDLE_BITS, 8.0)
"""Bits per weight of the checkpoints that are measured whole. Each costs what quantizing the model
does; the finished checkpoint of a budget is one more."""
_MOST: Final = 4.0
"""No prediction is corrected by a larger factor than this, up or down."""


def common_factor(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the geometric mean of measured / predicted; 1 where nothing is above zero."""
    pairs = [(p, m) for p, m in zip(predicted, measured, strict=True) if p > 0 and m > 0]
    if not pairs:
        return 1.0
    x, y = np.log(np.asarray(pairs)).T
    return float(np.clip(np.exp((y - x).mean()), 1 / _MOST, _MOST))


def law_through(checkpoints: Sequence[CheckpointKl]) -> Calibration:
    """Return the calibration through checkpoints, none further off than by the largest factor."""
    return Calibration.through(
        CheckpointKl(one.cost, _near(one.cost, one.measured), one.log_error) for one in checkpoints
    )


def _near(cost: float, kl: float) -> float:
    return float(np.clip(kl, cost / _MOST, cost * _MOST))


def calibration_allocations(
    measurement: Measurement,
) -> Iterator[tuple[float, Mapping[str, Format]]]:
    """Yield the mean bits and the optimal allocation of each calibration size that is feasible."""
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
