"""Scale and bias of a group: alternating least squares against the stored, rounded values."""

from __future__ import annotations

from typing import Final

import numpy as np

from app.core.dtypes import Dtype

__all__ = ["fit_groups", "stored", "usable_scale"]

_ROUNDS: Final = 3
_FEW_BITS: Final = 4
_SHARES: Final = (1.0, 0.96, 0.92)
"""Each start covers this share of the range."""
_FEW_BITS_SHARES: Final = (1.0, 0.92, 0.85, 0.78)
"""Where codes are few, cutting off the ends pays more."""


def stored(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return float32 `values` as rounded to `dtype`, ties to even."""
    if dtype is Dtype.BF16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
        return rounded.view(np.float32)
    if dtype is Dtype.F16:
        return values.astype(np.float16).astype(np.float32)
    return np.asarray(values, np.float32)


def fit_groups(
    values: np.ndarray, bits: int, dtype: Dtype, importance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return stored (scale, bias), each (rows,), for groups `values` (group, rows).

    Minimises the squared error weighted with `importance` (group,); the best round of each row is
    kept, so no row is worse than its minimum and maximum give.
    """
    most = np.float32(2**bits - 1)
    weight = (importance / importance.sum()).astype(np.float32)
    low, high = values.min(0), values.max(0)
    best: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for share in _FEW_BITS_SHARES if bits <= _FEW_BITS else _SHARES:
        scale, bias = _legal(
            (high - low) * np.float32(share) / most, low * np.float32(share), dtype
        )
        for round_ in range(_ROUNDS + 1):
            codes = np.clip(np.rint((values - bias) / scale), 0, most)
            error = weight @ np.square(codes * scale + bias - values)
            if best is None:
                best = (error, scale, bias)
            else:
                better = error < best[0]
                best = (
                    np.where(better, error, best[0]),
                    np.where(better, scale, best[1]),
                    np.where(better, bias, best[2]),
                )
            if round_ < _ROUNDS:
                scale, bias = _least_squares(values, codes, weight, scale, dtype)
    if best is None:
        raise AssertionError
    return best[1], best[2]


def _least_squares(
    values: np.ndarray, codes: np.ndarray, weight: np.ndarray, scale: np.ndarray, dtype: Dtype
) -> tuple[np.ndarray, np.ndarray]:
    mean_code, mean_value = weight @ codes, weight @ values
    centred = codes - mean_code
    spread = weight @ np.square(centred)
    slope = (weight @ (centred * values)) / np.maximum(spread, np.float32(1e-12))
    slope = np.where((spread > 0) & (slope != 0), slope, scale)
    slope = stored(slope, dtype)
    return _legal(slope, mean_value - slope * mean_code, dtype)


def _legal(scale: np.ndarray, bias: np.ndarray, dtype: Dtype) -> tuple[np.ndarray, np.ndarray]:
    return usable_scale(scale, dtype), stored(bias, dtype)


def usable_scale(scale: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return `scale` as stored; one that would be zero is tiny instead (mx.quantize: 1e-7)."""
    small = np.abs(scale) < np.float32(1e-7)
    return stored(np.where(small, np.float32(1e-7), scale), dtype)
