"""Norm-guided output noise: what an error of the weights is at the output of the module.

A module that reads the output of a norm has inputs x_j = gain_j n_j with E n_j^2 = 1. Taken as
uncorrelated they make an error dW a noise of power sum_ij gain_j^2 dW_ij^2 at the output, beside a
signal of power sum_ij gain_j^2 W_ij^2. The feature `output_noise` is the ratio of the two for
4 bits in groups of 32 by minmax, over the rows that the effective rank is estimated from. It
differs from t2 where large gains meet columns of coarse groups.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitbudget.workers.native.arrays import Array, address, storage_code
from bitbudget.workers.native.loader import kernels
from bitbudget.workers.sweep.plan import SweepPlan

__all__ = ["ColumnSums", "column_features", "sum_columns"]

_GROUP = 32


@dataclass(frozen=True, slots=True)
class ColumnSums:
    """Sums over rows of the squares of weights and of their errors, by column (in,)."""

    energies: npt.NDArray[np.float32]
    errors: npt.NDArray[np.float32]

    def joined(self, later: ColumnSums) -> ColumnSums:
        """Return the sums of this and the segment that follows."""
        return ColumnSums(self.energies + later.energies, self.errors + later.errors)


def sum_columns(weights: Array, plan: SweepPlan, first_row: int) -> ColumnSums | None:
    """Return the sums of a segment of whole rows; None where nothing is known of the inputs."""
    width = plan.width
    if plan.gains is None or not width or width % _GROUP:
        return None
    sums = ColumnSums(np.zeros(width, np.float32), np.zeros(width, np.float32))
    rows = weights.size // width
    call = kernels().bitbudget_columns
    call.restype = None
    counts = (rows, width, -first_row % plan.rows_step, plan.rows_step)
    call(
        address(weights),
        *map(ctypes.c_longlong, counts),
        storage_code(plan.dtype),
        address(sums.energies),
        address(sums.errors),
    )
    return sums


def column_features(sums: ColumnSums, plan: SweepPlan) -> dict[str, float]:
    """Return `output_noise`, the power of the noise over that of the signal."""
    if plan.gains is None:
        return {}
    powers = plan.gains.astype(np.float64) ** 2
    signal = float((powers * sums.energies).sum())
    return {"output_noise": float((powers * sums.errors).sum()) / signal} if signal > 0 else {}
