"""Correct predicted KL by what allocations measured.

The Fisher information leaves out what is not quadratic (a router whose choice flips, errors that
interact at few bits) and that a compensated encoder is judged by the statistics it was fitted to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

__all__ = ["common_factor"]

_MOST: Final = 3.0
"""No prediction is corrected by a larger factor than this, up or down."""


def common_factor(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the geometric mean of measured / predicted; 1 where nothing is above zero."""
    pairs = [(p, m) for p, m in zip(predicted, measured, strict=True) if p > 0 and m > 0]
    if not pairs:
        return 1.0
    x, y = np.log(np.asarray(pairs)).T
    return float(np.clip(np.exp((y - x).mean()), 1 / _MOST, _MOST))
