"""In which order rows and columns are coded: what costs most first, while most can make up for it.

GPTQ's `act-order` moves columns between groups, which the storage format does not allow; here whole
groups are moved, and columns inside them. One order serves every group size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from bitbudget.app.core.formats import AFFINE_GROUP_SIZES, Format
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.quadratic import Term

__all__ = ["Order"]

_GROUPS: Final = AFFINE_GROUP_SIZES[::-1]


@dataclass(frozen=True, slots=True)
class Order:
    """Permutations: entry i is the row (out,) or column (in,) that is coded as number i."""

    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def by_cost(cls, moment: np.ndarray, rows: np.ndarray) -> Order:
        """Return the order of falling A_jj, and of falling B_ii where B couples rows."""
        out = np.argsort(-np.diagonal(rows), kind="stable") if rows.ndim > 1 else None
        return cls(np.arange(len(rows)) if out is None else out, _columns(np.diagonal(moment)))

    def weight(self, weight: np.ndarray) -> np.ndarray:
        """Return `weight` (out, in) in this order."""
        result: np.ndarray = weight[np.ix_(self.rows, self.columns)]
        return result

    def across(self, columns: np.ndarray) -> np.ndarray:
        """Return an input-side matrix (in, in) in this order."""
        result: np.ndarray = columns[np.ix_(self.columns, self.columns)]
        return result

    def down(self, rows: np.ndarray) -> np.ndarray:
        """Return an output-side matrix (out, out), or its diagonal (out,), in this order."""
        coupled = rows.ndim > 1
        result: np.ndarray = rows[np.ix_(self.rows, self.rows)] if coupled else rows[self.rows]
        return result

    def term(self, term: Term) -> Term:
        """Return a term of the objective in this order."""
        return Term(self.across(term.columns), self.down(term.rows))

    def undone(self, coded: Coded, format_: Format) -> Coded:
        """Return what was coded in this order in the weight's own."""
        parts = (coded.codes, coded.scales, coded.biases)
        codes, scales, biases = (np.empty_like(part) for part in parts)
        codes[np.ix_(self.rows, self.columns)] = coded.codes
        groups = self.columns[:: format_.group_size] // format_.group_size
        scales[np.ix_(self.rows, groups)] = coded.scales
        biases[np.ix_(self.rows, groups)] = coded.biases
        return Coded(codes, scales, biases)


def _columns(energy: np.ndarray) -> np.ndarray:
    """Return columns by falling energy of their largest group, of the next inside it, and so on."""
    keys = [-energy]
    for size in _GROUPS[::-1]:
        if len(energy) % size == 0:
            number = np.arange(len(energy)) // size
            sums = -energy.reshape(-1, size).sum(1)
            keys += [number, sums[number]]
    order: np.ndarray = np.lexsort(keys)
    return order
