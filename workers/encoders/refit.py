"""Scale and bias of a group, given its codes and every other error: least squares under A.

The step of (scale, bias) that minimises the quadratic objective of one group of one row solves two
normal equations, q^T A q, q^T A 1 and 1^T A 1 (GPTQ and QuantEase, arXiv 2309.01885, keep the grid
fixed). The scale is rounded to its storage type first; the bias then answers to the rounded scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from app.core.dtypes import Dtype
from workers.encoders.groups import stored, usable_scale
from workers.encoders.quadratic import Term

__all__ = ["refit"]

_SINGULAR: Final = 1e-6
"""Determinant, relative to the diagonal's product, under which the codes are as good as constant:
only the bias moves."""


def refit(
    terms: Sequence[Term],
    columns: slice,
    gradient: np.ndarray,
    codes: np.ndarray,
    *,
    grid: tuple[np.ndarray, np.ndarray],
    dtype: Dtype,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the stored (scale, bias), each (out,), that lower the objective of one group most.

    Args:
        terms: Of these rows; the coupling between rows is left to the caller's acceptance.
        columns: The group's.
        gradient: The objective's, (group, out), at the present values.
        codes: float32 (group, out).
        grid: Present scale and bias, each (out,).
        dtype: What both are stored in.
    """
    scale, bias = grid
    both = np.zeros((3, len(scale)), np.float32)
    for term in terms:
        inner = term.columns[columns, columns]
        product = (codes * (inner @ codes)).sum(0), inner.sum(0) @ codes, inner.sum()
        both += np.stack([term.row_diagonal * value for value in product])
    slopes = (codes * gradient).sum(0), gradient.sum(0)
    change = _solved(both, slopes)
    new_scale = usable_scale(scale + change, dtype)
    shift = slopes[1] + both[1] * (new_scale - scale)
    new_bias = stored(bias - shift / np.maximum(both[2], np.float32(1e-30)), dtype)
    return new_scale, new_bias


def _solved(both: np.ndarray, slopes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the step of the scale."""
    determinant = both[0] * both[2] - np.square(both[1])
    regular = determinant > _SINGULAR * both[0] * both[2]
    step = (both[1] * slopes[1] - both[2] * slopes[0]) / np.where(regular, determinant, 1)
    result: np.ndarray = np.where(regular, step, 0).astype(np.float32)
    return result
