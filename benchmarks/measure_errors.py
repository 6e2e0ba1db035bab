"""How far measured errors are from exact ones: the NumPy reference, and careful's estimates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import AFFINE_FORMATS
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.native.arrays import Array, to_float32
from bitbudget.workers.sweep import measure_weight
from bitbudget.workers.sweep import plan as plan_module
from bitbudget.workers.sweep.reference import affine_error

__all__ = ["measured_errors", "replaced"]

_REFERENCE_ROWS: Final = 512
_WEIGHTS: Final = 3
_ROWS: Final = 1024


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def measured_errors(weight: Array) -> dict[str, float]:
    """Return the largest relative errors against the reference, and the estimates' rms.

    `weight` is (rows, in) in bf16 bits. The estimates are of some of its slices with 1 million
    weights, the smallest that are sampled; the rms is that of the worst format.
    """
    return {**_against_reference(weight[:_REFERENCE_ROWS]), **_of_estimates(weight)}


def _against_reference(weight: Array) -> dict[str, float]:
    energy = float((to_float32(weight, Dtype.BF16).astype(np.float64) ** 2).sum())
    found = {}
    t2 = measure_weight([weight], Dtype.BF16, AFFINE_FORMATS, Encoder.MINMAX).t2
    for format_ in AFFINE_FORMATS:
        exact = affine_error(weight, Dtype.BF16, format_) / energy
        found[format_] = abs(t2[format_] / exact - 1)
    few = max(off for format_, off in found.items() if format_.bits <= 5)  # noqa: PLR2004, bits
    return {"reference": max(found.values()), "reference up to 5 bits": few}


def _of_estimates(weight: Array) -> dict[str, float]:
    offs = []
    for start in range(0, min(_WEIGHTS * _ROWS, len(weight)), _ROWS):
        part = weight[start : start + _ROWS]
        sampled = measure_weight([part], Dtype.BF16, AFFINE_FORMATS, Encoder.CAREFUL).t2
        with replaced(plan_module, "EXACT_BELOW_WEIGHTS", part.size + 1):
            exact = measure_weight([part], Dtype.BF16, AFFINE_FORMATS, Encoder.CAREFUL).t2
        offs.append([sampled[f] / exact[f] - 1 for f in AFFINE_FORMATS])
    return {"sampled careful": float(np.sqrt((np.array(offs) ** 2).mean(0)).max())}
