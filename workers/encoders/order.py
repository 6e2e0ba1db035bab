"""In which order rows and columns are coded: what costs most first, while most can make up for it.

GPTQ's `act-order` moves columns between groups, which the storage format does not allow; here whole
groups are moved, and columns inside them. One order serves every group size; formats that store
parameters for whole spans of columns have one of their own, in which spans stay whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bitbudget.app.core.formats import AFFINE_GROUP_SIZES, SPAN_COLUMNS, Format
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.quadratic import Term

__all__ = ["Order"]

_SPAN_GROUPS: Final = (16, 32)
"""Group sizes of formats with spans."""


@dataclass(frozen=True, slots=True)
class Order:
    """Permutations: entry i is the row (out,) or column (in,) that is coded as number i."""

    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def by_cost(cls, moment: np.ndarray, rows: np.ndarray, *, spans: bool = False) -> Order:
        """Return the order of falling A_jj, and of falling B_ii where B couples rows.

        With `spans` those of 256 columns stay whole; a shorter one stays the last.
        """
        out = np.argsort(-np.diagonal(rows), kind="stable") if rows.ndim > 1 else None
        columns = _columns_in_spans if spans else _columns
        return cls(np.arange(len(rows)) if out is None else out, columns(np.diagonal(moment)))

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
        if coded.spans is None:
            return Coded(codes, scales, biases)
        spans = np.empty_like(coded.spans)
        spans[np.ix_(self.rows, self.columns[::SPAN_COLUMNS] // SPAN_COLUMNS)] = coded.spans
        return Coded(codes, scales, biases, spans)


def _columns_in_spans(energy: np.ndarray) -> np.ndarray:
    whole = len(energy) // SPAN_COLUMNS * SPAN_COLUMNS
    sizes = (*_SPAN_GROUPS, SPAN_COLUMNS)
    parts = (_columns(energy[:whole], sizes), whole + _columns(energy[whole:], _SPAN_GROUPS))
    return np.concatenate(parts)


def _columns(energy: np.ndarray, sizes: Sequence[int] = AFFINE_GROUP_SIZES) -> np.ndarray:
    """Return columns by falling energy of their largest group, of the next inside it, and so on.

    `sizes` of groups that nest, the smallest first; those that do not fit the width are left out.
    """
    keys = [-energy]
    for size in sizes:
        if len(energy) % size == 0:
            number = np.arange(len(energy)) // size
            sums = -energy.reshape(-1, size).sum(1)
            keys += [number, sums[number]]
    order: np.ndarray = np.lexsort(keys)
    return order
