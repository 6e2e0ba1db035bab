"""The signal to quantization noise ratio of a module, and the least that is offered."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["DEFAULT_SQNR_FLOOR_DB", "sqnr_db"]

DEFAULT_SQNR_FLOOR_DB: Final = 9.0
"""Formats below it are not offered, if nothing else is said.

Between 2 and 3 bits of `minmax` on Gaussian weights (8.8 dB at g32, 13.7 dB at g128).
"""


def sqnr_db(t2: float) -> float:
    """Return -10 log10 t2 of the relative squared error t2, infinite for an exact copy."""
    return math.inf if t2 <= 0 else -10 * math.log10(t2)
