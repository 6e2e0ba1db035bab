"""The definition of what the kernels compute, in NumPy: the oracle of their tests.

`affine_parameters` and `affine_codes` are `mx.quantize` on the CPU, operation by operation (mlx
0.32, backend/cpu/quantized.cpp, `quantize`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.workers.native.arrays import Array, from_float32, to_float32

__all__ = ["affine_codes", "affine_error", "affine_parameters", "stored"]

Floats = npt.NDArray[np.float32]

_SMALLEST_SCALE: Final = np.float32(1e-7)


def affine_parameters(groups: Floats, bits: int) -> tuple[Floats, Floats]:
    """Return scale and bias (n, 1) of groups (n, size), before they are rounded to storage."""
    steps = np.float32((1 << bits) - 1)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    below = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / steps, _SMALLEST_SCALE)
    scale = np.where(below, scale, -scale)
    edge = np.where(below, low, high)
    edge_code = np.rint(edge / scale)
    vanishes = edge_code == 0
    divisor = np.where(vanishes, np.float32(1), edge_code)
    return np.where(vanishes, scale, edge / divisor), np.where(vanishes, np.float32(0), edge)


def affine_codes(groups: Floats, scale: Floats, bias: Floats, bits: int) -> Floats:
    """Return the nearest codes (n, size) for scale and bias (n, 1), ties to even."""
    codes: Floats = np.rint((groups - bias) / scale)
    return np.clip(codes, 0, np.float32((1 << bits) - 1))


def stored(values: Floats, dtype: Dtype) -> Floats:
    """Return `values` rounded to the storage type."""
    return to_float32(from_float32(values, dtype), dtype)


def affine_error(weight: Array, dtype: Dtype, format_: Format) -> float:
    """Return the squared error of `minmax`, product exact, summed in float64.

    Codes are taken against the unrounded parameters, values from the stored ones.
    """
    groups = to_float32(weight, dtype).reshape(-1, format_.group_size)
    scale, bias = affine_parameters(groups, format_.bits)
    codes = affine_codes(groups, scale, bias, format_.bits)
    values = codes.astype(np.float64) * stored(scale, dtype) + stored(bias, dtype)
    return float(((values - groups) ** 2).sum())
