"""How well predicted KL agrees with what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bitbudget.app.core.measurement import Verification

__all__ = ["agreement", "typical_error"]

_LEAST_ERROR: Final = 0.02
"""No measurement of log KL counts as more precise than this."""


def typical_error(found: Verification, log_errors: Sequence[float]) -> float:
    """Return the root mean square of log(measured / predicted), weighted by precision.

    `log_errors` are the standard errors of log measured: at 8 bits a few tokens make most of the
    KL, and eight windows know it to 50 %.
    """
    rows = zip(found.predicted, found.measured, log_errors, strict=True)
    known = [(np.log(m / p), max(error, _LEAST_ERROR)) for p, m, error in rows if p * m > 0]
    if not known:
        return 0.0
    residuals, errors = np.asarray(known).T
    return float(np.sqrt(np.average(np.square(residuals), weights=1 / np.square(errors))))


def agreement(
    predicted: Sequence[float], measured: Sequence[float], bits: Sequence[float]
) -> Verification:
    """Return R^2 of the prediction as it stands, rank correlation, and slope through the origin."""
    x, y = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    spread = float(np.square(y - y.mean()).sum()) or 1e-30
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return Verification(
        tuple(predicted),
        tuple(measured),
        tuple(bits),
        r_squared=1 - float(np.square(y - x).sum()) / spread,
        spearman=float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
        slope=float(x @ y / max(float(x @ x), 1e-30)),
    )
