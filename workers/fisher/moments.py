"""Sums over tokens from which a module's Kronecker factors, alpha and rank-one sums are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import mlx.core as mx
import numpy as np

from workers.fisher.statistics import KroneckerTerm, ModuleStatistics
from workers.fisher.taps import Call

__all__ = ["FULL_ROWS", "ModuleMoments"]

FULL_ROWS: Final = 4096
"""Outputs up to which B = E[g g^T] is kept whole; of a wider module only its diagonal."""
_FULL_ELEMENTS: Final = 1 << 28
"""Elements up to which B of all experts of a module is kept whole."""


@dataclass(slots=True)
class _Pair:
    """Running sums of one Kronecker term."""

    columns: mx.array | None = None
    rows: mx.array | None = None
    count: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))

    def add(self, columns: mx.array, rows: mx.array, count: np.ndarray) -> None:
        self.columns = columns if self.columns is None else self.columns + columns
        self.rows = rows if self.rows is None else self.rows + rows
        self.count = self.count + count


class ModuleMoments:
    """Everything summed for one module over the batches of a pass."""

    def __init__(self, path: str, weight_shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = weight_shape
        self.use = _Pair()
        self.lookup = _Pair()
        self.row_sums = mx.zeros(weight_shape[:-1])
        self.column_sums = mx.zeros((*weight_shape[:-2], weight_shape[-1]))

    def add(self, call: Call, gradient: mx.array, head_rows: mx.array | None = None) -> None:
        """Add a call with its output gradient.

        `head_rows` replaces the sum of g^2 where it is known in closed form: p (1 - p) of a head.
        """
        if call.is_lookup:
            self._add_lookup(call.inputs, gradient)
        elif call.indices is not None:
            self._add_experts(call.inputs, call.indices, gradient)
        else:
            self._add_linear(call.inputs, gradient, head_rows)
        mx.eval(
            self.row_sums,
            self.column_sums,
            [
                a
                for pair in (self.use, self.lookup)
                for a in (pair.columns, pair.rows)
                if a is not None
            ],
        )

    def add_direct(self, gradient: mx.array) -> None:
        """Add a gradient of the weight itself, of a kind of module without Kronecker factors."""
        square = gradient * gradient
        self.row_sums = self.row_sums + square.sum(-1)
        self.column_sums = self.column_sums + square.sum(-2)
        mx.eval(self.row_sums, self.column_sums)

    def _add_linear(self, x: mx.array, g: mx.array, head_rows: mx.array | None) -> None:
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        g = g.reshape(x.shape[0], -1, g.shape[-1])
        flat_x, flat_g = x.flatten(0, 1), g.flatten(0, 1)
        rows = head_rows if head_rows is not None else self._rows(flat_g)
        self.use.add(flat_x.T @ flat_x, rows, np.array(flat_x.shape[0]))
        if head_rows is not None:
            energy = mx.square(flat_x).sum(-1)
            self.row_sums = self.row_sums + (energy @ mx.square(flat_g))
            self.column_sums = self.column_sums + (mx.square(flat_g).sum(-1) @ mx.square(flat_x))
            return
        self._add_sequences(x, g)

    def _add_sequences(self, x: mx.array, g: mx.array) -> None:
        """Add each sequence's squared gradient G = sum_t g_t x_t^T, summed over rows and columns.

        Wide modules go through the Gram matrices over tokens, without G itself:
        sum_j G_ij^2 = g_i^T (X X^T) g_i.
        """
        length, width, height = x.shape[1], x.shape[2], g.shape[2]
        if 2 * length * (width + height) < width * height:
            gram_x, gram_g = x @ x.swapaxes(1, 2), g @ g.swapaxes(1, 2)
            self.row_sums = self.row_sums + ((gram_x @ g) * g).sum((0, 1))
            self.column_sums = self.column_sums + ((gram_g @ x) * x).sum((0, 1))
            return
        for sequence_x, sequence_g in zip(x, g, strict=True):
            square = mx.square(sequence_g.T @ sequence_x)
            self.row_sums = self.row_sums + square.sum(1)
            self.column_sums = self.column_sums + square.sum(0)

    def _rows(self, g: mx.array) -> mx.array:
        if g.shape[-1] > FULL_ROWS or np.prod(self.shape[:-2]) * g.shape[-1] ** 2 > _FULL_ELEMENTS:
            return mx.square(g).sum(0)
        return g.T @ g

    def _add_lookup(self, ids: mx.array, g: mx.array) -> None:
        flat = g.reshape(-1, g.shape[-1])
        square = mx.square(flat)
        energy = square.sum(-1)
        rows = mx.zeros(self.shape[0]).at[ids.flatten()].add(energy)
        self.lookup.add(flat.T @ flat, rows, np.array(flat.shape[0]))
        self.row_sums = self.row_sums + rows
        self.column_sums = self.column_sums + square.sum(0)

    def _add_experts(self, x: mx.array, indices: mx.array, g: mx.array) -> None:
        x = mx.broadcast_to(x, (*g.shape[:-1], x.shape[-1])).reshape(-1, x.shape[-1])
        g = g.reshape(-1, g.shape[-1])
        experts = self.shape[0]
        chosen = np.array(indices).reshape(-1)
        order = np.argsort(chosen, kind="stable")
        counts = np.bincount(chosen, minlength=experts)
        x, g = x[mx.array(order)], g[mx.array(order)]
        columns, rows, row_sums, column_sums = [], [], [], []
        for begin, end in zip(np.cumsum(counts) - counts, np.cumsum(counts), strict=True):
            own_x, own_g = x[int(begin) : int(end)], g[int(begin) : int(end)]
            columns.append(own_x.T @ own_x)
            rows.append(self._rows(own_g))
            row_sums.append(mx.square(own_x).sum(-1) @ mx.square(own_g))
            column_sums.append(mx.square(own_g).sum(-1) @ mx.square(own_x))
        self.use.add(mx.stack(columns), mx.stack(rows), counts)
        self.row_sums = self.row_sums + mx.stack(row_sums)
        self.column_sums = self.column_sums + mx.stack(column_sums)

    def finish(self, mean_square_weight: float, tokens: int) -> ModuleStatistics:
        """Return the statistics per token of text, of a weight with this mean square."""
        terms = []
        if self.use.columns is not None and self.use.rows is not None:
            count = np.maximum(self.use.count, 1).astype(np.float32)[..., None, None]
            columns = np.array(self.use.columns) / count
            terms.append(KroneckerTerm(columns, np.array(self.use.rows) / np.float32(tokens)))
        if self.lookup.columns is not None and self.lookup.rows is not None:
            terms.append(self._lookup_term(tokens))
        energy = float(np.array(self.row_sums).sum(dtype=np.float64))
        return ModuleStatistics(
            self.path,
            0.5 * mean_square_weight * energy / tokens,
            np.array(self.row_sums) / np.float32(tokens),
            np.array(self.column_sums) / np.float32(tokens),
            tuple(terms),
            np.asarray(self.use.count + self.lookup.count),
        )

    def _lookup_term(self, tokens: int) -> KroneckerTerm:
        """Return the term of a lookup: E[g g^T] acts on the row a token reads.

        Each row gets one token's worth of the mean energy more than it was seen to have: a token
        that the sample lacks is rare, not free.
        """
        columns, rows = np.array(self.lookup.columns), np.array(self.lookup.rows)
        total = float(rows.sum(dtype=np.float64))
        smoothed = rows + total / max(int(self.lookup.count), 1)
        share = smoothed / max(float(smoothed.sum(dtype=np.float64)), 1e-30)
        return KroneckerTerm(columns / np.float32(tokens), share.astype(np.float32))
