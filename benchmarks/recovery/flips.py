"""PV-like flips: few codes move by a whole step, those that lower KL most by its second order.

Moving a weight by one step s of its grid changes KL by -|g| s + s^2 h / 2 with g its gradient and
h = sum over Fisher terms of A_jj B_ii. Only gradients beyond two standard errors count. After
PV-Tuning (arXiv 2405.14852), which moves a small share of the codes by as much as it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.recovery.codes import flat_codes, terms_of, with_codes
from benchmarks.recovery.gradients import WeightGradients
from bitbudget.app.core.formats import Format
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.recovery.stored import AffineStored, Stored

__all__ = ["Flips"]

_STANDARD_ERRORS: Final = 2.0


@dataclass
class Flips:
    """What every flip of one code wins, float32 (..., out, in) by module.

    Flips.of(formats, statistics, gradients, student.stored).moved(student.stored, 0.002)
    """

    gains: dict[str, np.ndarray] = field(default_factory=dict)
    directions: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        formats: Mapping[str, Format],
        statistics: Mapping[str, ModuleStatistics],
        gradients: WeightGradients,
        stored: Mapping[str, Stored],
    ) -> Flips:
        """Return the gains in nats per token; zero where a flip would leave the grid."""
        found = cls()
        for path, own in stored.items():
            if not isinstance(own, AffineStored):
                continue
            codes, g = flat_codes(own), gradients.mean(path)
            steps = np.repeat(np.array(own.scales), own.codes.shape[-1], axis=-1)
            up = g * steps < 0  # a scale may be negative
            inside = np.where(up, codes < 2 ** formats[path].bits - 1, codes > 0)
            sure = np.abs(g) > _STANDARD_ERRORS * gradients.standard_error(path)
            gain = np.abs(g * steps) - steps**2 * _curvature(statistics[path], g.shape) / 2
            found.gains[path] = np.where(inside & sure, gain, 0)
            found.directions[path] = np.where(up, 1, -1).astype(np.int8)
        return found

    def moved(self, stored: Mapping[str, Stored], share: float) -> dict[str, Stored]:
        """Return what is stored with this share of all codes flipped, those that win most."""
        every = np.concatenate([gain.ravel() for gain in self.gains.values()])
        count = max(1, int(share * every.size))
        least = max(float(np.partition(every, -count)[-count]), np.finfo(np.float32).tiny)
        found = dict(stored)
        for path, gain in self.gains.items():
            own = stored[path]
            assert isinstance(own, AffineStored)  # noqa: S101 - only those have gains
            by = np.where(gain >= least, self.directions[path], 0)
            found[path] = with_codes(own, (flat_codes(own) + by).astype(np.uint8))
        return found


def _curvature(known: ModuleStatistics, shape: tuple[int, ...]) -> np.ndarray:
    """Return h of every weight."""
    found = np.empty(shape, np.float32)
    for index in np.ndindex(*shape[:-2]):
        terms = terms_of(known, index, shape[-2])
        found[index] = sum(np.outer(t.row_diagonal, np.diagonal(t.columns)) for t in terms)
    return found
