"""Whole checkpoints that calibrate predicted KL: which they are, and the law through them.

The Fisher information leaves out what is not quadratic (a router whose choice flips, errors that
interact at few bits) and that a compensated encoder is judged by the statistics it was fitted to:
on SmolLM2-135M a checkpoint loses twice the sum of its curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bitbudget.app.core.calibration import Calibration, CheckpointKl
from bitbudget.app.core.errors import InfeasibleBudgetError, InvalidRequestError
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.relinearization import bits_per_weight
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.solving import allocate_in_time

__all__ = ["Sizes", "calibration_sizes", "common_factor", "law_through"]

_MIDDLE_BITS: Final = 4.5
_BITS: Final = (3.0, _MIDDLE_BITS, 8.0)
"""Bits per weight of the checkpoints that are measured whole, where no budget is stated."""
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


@dataclass(frozen=True, slots=True)
class Sizes:
    """The allocations that calibrate, by their bits per weight, from the fewest to the most.

    That of `deployed` bits is coded as its checkpoint will be: the one of the budget, where one is
    stated, so that predictions are calibrated at the size asked for.
    """

    allocations: Mapping[float, Mapping[str, Format]]
    deployed: float


def calibration_sizes(
    measurement: Measurement, request: AllocationRequest | None = None
) -> Sizes | None:
    """Return optimal allocations of three sizes, the `request`'s and two others where it is given.

    Sizes that no allocation has are left out; None where none is left.
    """
    weights = sum(m.weights for m in measurement.inventory.modules if _is_movable(m))
    own = Runtime.BITBUDGET if measurement.has_own_formats else Runtime.STOCK
    runtime = own if request is None else request.runtime
    found: dict[float, Mapping[str, Format]] = {}
    for bits in _BITS:
        budget = _fixed_bytes(measurement.inventory) + int(bits * weights / 8)
        asked_for = AllocationRequest(budget=budget, sqnr_floor_db=0, runtime=runtime)
        allocated = _allocated(measurement, asked_for)
        if allocated is not None:
            found[bits] = allocated
    wanted = None if request is None else _allocated(measurement, request)
    if wanted is not None and measurement.cost(wanted) > 0:
        asked = bits_per_weight(measurement.inventory, wanted)
        if found:
            del found[min(found, key=lambda bits: abs(np.log(bits / asked)))]
        found[asked] = wanted
        return Sizes(dict(sorted(found.items())), asked)
    if not found:
        return None
    return Sizes(found, _MIDDLE_BITS if _MIDDLE_BITS in found else next(iter(found)))


def _allocated(measurement: Measurement, request: AllocationRequest) -> Mapping[str, Format] | None:
    """Return the formats of the optimal allocation, None where there is none."""
    try:
        return allocate_in_time(measurement, request).formats
    except (InfeasibleBudgetError, InvalidRequestError):
        return None


def _is_movable(module: Module) -> bool:
    return bool(set(module.legal_formats()) - {KEEP})


def _fixed_bytes(inventory: Inventory) -> int:
    """Return the bytes of a checkpoint that no allocation changes."""
    kept = (module for module in inventory.modules if not _is_movable(module))
    kept_bytes = sum(KEEP.data_bytes(module.shape, module.dtype) for module in kept)
    return plan_checkpoint(inventory).fixed_bytes + kept_bytes
