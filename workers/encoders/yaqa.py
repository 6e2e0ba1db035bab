"""The encoder `yaqa`: error feedback against both sides of the Fisher information."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bitbudget.workers.encoders.target import Target

if TYPE_CHECKING:
    from bitbudget.workers.fisher.statistics import ModuleStatistics

__all__ = ["yaqa_target"]


def yaqa_target(
    statistics: ModuleStatistics, moment: np.ndarray, index: tuple[int, ...], out: int
) -> Target:
    """Return the objective of one expert with `out` rows: A is `moment`, B that of the statistics.

    The two uses of an embedding that is also the head have their own terms. A diagonal B of a
    single use changes nothing: it weighs rows that do not affect each other.
    """
    free = np.ones(out, np.float32)
    terms = [term.part(index) for term in statistics.terms]
    if len(terms) > 1:
        return Target(moment, tuple((term.columns, term.rows) for term in terms), free)
    rows = statistics.feedback_rows(index) if terms else free
    rows = rows if rows.ndim > 1 else free
    return Target(moment, ((moment, rows),), rows)
