"""Numbers that describe a weight, from its power sums."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from bitbudget.workers.sweep.kernel import KURTOSIS_BINS, SegmentSums
from bitbudget.workers.sweep.spectrum import spectrum_features

__all__ = ["features_of"]

_BINS_PER_OCTAVE: Final = 64
_PERCENTILE: Final = 0.9
_NORMAL: Final = 3.0
"""E[w^4] / E[w^2]^2 of a normal distribution, subtracted for excess kurtosis."""


def features_of(sums: SegmentSums) -> dict[str, float]:
    """Return the features of a weight without NaN or infinities.

    `mean`, `rms`, `absmax`; `max_over_rms`; `kurtosis`, the excess over a normal distribution of
    all weights about their mean; `kurtosis_group_p90`, the 90th percentile over groups of 128 of
    the excess about zero; `outlier_fraction`, weights beyond three times the root mean square of
    their block of 4096; and the features of the spectrum (see `spectrum_features`).
    """
    count = sums.power("count")
    if not count:
        return {}
    mean = sums.power("sum") / count
    square, cube, fourth = (sums.power(name) / count for name in ("squares", "cubes", "fourths"))
    variance = max(square - mean**2, 0.0)
    central = fourth - 4 * mean * cube + 6 * mean**2 * square - 3 * mean**4
    rms = math.sqrt(square)
    return {
        "mean": mean,
        "rms": rms,
        "absmax": sums.power("largest"),
        "max_over_rms": sums.power("largest") / rms if rms else 0.0,
        "kurtosis": central / variance**2 - _NORMAL if variance**2 else 0.0,
        "kurtosis_group_p90": _group_percentile(sums),
        "outlier_fraction": sums.power("outliers") / count,
        **({} if sums.spectrum is None else spectrum_features(sums.spectrum, square * count)),
    }


def _group_percentile(sums: SegmentSums) -> float:
    """Return the percentile, in the middle of its bin (1/64 of an octave, linear mantissa)."""
    groups = sums.kurtosis.sum()
    if not groups:
        return 0.0
    bin_ = int(np.searchsorted(np.cumsum(sums.kurtosis), _PERCENTILE * groups))
    octave, step = divmod(min(bin_, KURTOSIS_BINS - 1), _BINS_PER_OCTAVE)
    return float(2.0**octave * (1 + (step + 0.5) / _BINS_PER_OCTAVE) - _NORMAL)
