"""Sums over tokens from which a module's Kronecker factors, alpha and rank-one sums are made.

The Fisher information of a module is E[vec(G) vec(G)^T] of the gradient G = sum_t g_t x_t^T. Its
Kronecker factors are those of one power iteration from the identity (YAQA, arXiv 2505.22988,
section 4, on tokens): A = E[|g|^2 x x^T], B = E[|x|^2 g g^T]. So a token that the loss does not
feel does not shape A, however large its activation. Their product is scaled to the trace of the
true Fisher information, the squared gradient of whole sequences: that counts how the errors of a
value projection, say, add up over the tokens that attention averages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.activations import INT8
from bitbudget.workers.fisher.statistics import KroneckerTerm, ModuleStatistics
from bitbudget.workers.running.rounding import rounded
from bitbudget.workers.running.taps import Call

__all__ = ["FULL_ROWS", "Head", "ModuleMoments"]

FULL_ROWS: Final = 4096
"""Outputs up to which B = E[g g^T] is kept whole; of a wider module only its diagonal."""
_FULL_ELEMENTS: Final = 1 << 28
"""Elements up to which B of all experts of a module is kept whole."""


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a head's calls: the variance p (1 - p) of g (tokens, out), and its weight.

    Which tokens are likely together decides what rounding its inputs costs, and no diagonal of B
    tells: that is summed with the weight at once.
    """

    variance: mx.array
    weight: mx.array


@dataclass(slots=True)
class _Pair:
    """Running sums of one Kronecker term."""

    columns: mx.array | None = None
    rows: mx.array | None = None
    count: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))
    energy: np.ndarray = field(default_factory=lambda: np.zeros((), np.float64))

    def add(self, columns: mx.array, rows: mx.array, count: np.ndarray, energy: mx.array) -> None:
        self.columns = columns if self.columns is None else self.columns + columns
        self.rows = rows if self.rows is None else self.rows + rows
        self.count = self.count + count
        self.energy = self.energy + np.array(energy, np.float64)

    def term(self, tokens: int) -> KroneckerTerm:
        """Return the factors: A of trace one, B of the energy per token of text.

        The sums are let go: a layer's moments are not held twice.
        """
        columns, self.columns = np.array(self.columns), None
        rows, self.rows = np.array(self.rows), None
        columns /= _positive(np.trace(columns, axis1=-2, axis2=-1))[..., None, None]
        full = rows.ndim == columns.ndim
        trace = np.trace(rows, axis1=-2, axis2=-1) if full else rows.sum(-1)
        scale = np.asarray(self.energy / tokens / _positive(trace), np.float32)
        rows *= scale[..., None, None] if full else scale[..., None]
        return KroneckerTerm(columns, rows)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1)


class ModuleMoments:
    """Everything summed for one module over the batches of a pass."""

    def __init__(self, path: str, weight_shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = weight_shape
        self.use = _Pair()
        self.lookup = _Pair()
        self.row_sums = mx.zeros(weight_shape[:-1])
        self.column_sums = mx.zeros((*weight_shape[:-2], weight_shape[-1]))
        self.rounding: mx.array | None = None
        self.head_rounding: mx.array | None = None

    def add(self, call: Call, gradient: mx.array, head: Head | None = None) -> None:
        """Add a call with its output gradient; of a head with what is known of it beside that."""
        if call.is_lookup:
            self._add_lookup(call.inputs, gradient)
        elif call.indices is not None:
            self._add_experts(call.inputs, call.indices, gradient)
        elif head is not None:
            self._add_head(call.inputs, gradient, head)
        else:
            self._add_linear(call.inputs, gradient)
        pairs = (self.use, self.lookup)
        sums = [(pair.columns, pair.rows) for pair in pairs]
        mx.eval(self.row_sums, self.column_sums, self.rounding, self.head_rounding, sums)

    def add_direct(self, gradient: mx.array, tokens: int) -> None:
        """Add the gradient G (..., out, in) of the weight itself over a batch of `tokens`.

        For kinds of module whose calls are not recorded: the factors are those of one power
        iteration on whole batches, A = E[G^T G] and B = E[G G^T].
        """
        square = mx.square(gradient)
        self._add_sums(square.sum(-1), square.sum(-2))
        turned = gradient.swapaxes(-1, -2)
        count = np.full(self.shape[:-2], tokens, np.int64)
        self.use.add(turned @ gradient, gradient @ turned, count, square.sum((-1, -2)))
        mx.eval(self.row_sums, self.column_sums, self.use.columns, self.use.rows)

    def _add_sums(self, rows: mx.array, columns: mx.array) -> None:
        self.row_sums = self.row_sums + rows
        self.column_sums = self.column_sums + columns

    def _add_rounding(self, sums: mx.array) -> None:
        self.rounding = sums if self.rounding is None else self.rounding + sums

    def _add_linear(self, x: mx.array, g: mx.array) -> None:
        if x.ndim == 1:  # DBRX calls its experts with one vector at a time
            x, g = x[None], g[None]
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        g = g.reshape(x.shape[0], -1, g.shape[-1])
        rows, columns = _sequence_sums(x, g)
        x, g = x.flatten(0, 1), g.flatten(0, 1)
        energy_x, energy_g = mx.square(x).sum(-1), mx.square(g).sum(-1)
        self._add_sums(rows, columns)
        self._add_rounding(_rounding(x, energy_g))
        self.use.add(
            _weighted(x, energy_g), self._rows(g, energy_x), np.array(x.shape[0]), rows.sum()
        )

    def _add_head(self, x: mx.array, g: mx.array, head: Head) -> None:
        x, variance = x.reshape(-1, x.shape[-1]), head.variance
        energy_x, energy_g = mx.square(x).sum(-1), variance.sum(-1)
        rows = energy_x @ variance
        self._add_sums(rows, energy_g @ mx.square(x))
        errors = rounded(x, INT8) - x
        moved = mx.square(((g.reshape(-1, g.shape[-1]) @ head.weight) * errors).sum(-1)).sum()
        self.head_rounding = moved if self.head_rounding is None else self.head_rounding + moved
        self.use.add(_weighted(x, energy_g), rows, np.array(x.shape[0]), rows.sum())

    def _rows(self, g: mx.array, weight: mx.array) -> mx.array:
        if g.shape[-1] > FULL_ROWS or np.prod(self.shape[:-2]) * g.shape[-1] ** 2 > _FULL_ELEMENTS:
            return weight @ mx.square(g)
        return _weighted(g, weight)

    def _add_lookup(self, ids: mx.array, g: mx.array) -> None:
        flat = g.reshape(-1, g.shape[-1])
        square = mx.square(flat)
        energy = square.sum(-1)
        rows = mx.zeros(self.shape[0]).at[ids.flatten()].add(energy)
        self.lookup.add(flat.T @ flat, rows, np.array(flat.shape[0]), energy.sum())
        self._add_sums(rows, square.sum(0))

    def _add_experts(self, x: mx.array, indices: mx.array, g: mx.array) -> None:
        x = mx.broadcast_to(x, (*g.shape[:-1], x.shape[-1])).reshape(-1, x.shape[-1])
        g = g.reshape(-1, g.shape[-1])
        chosen = np.array(indices).reshape(-1)
        order = mx.array(np.argsort(chosen, kind="stable"))
        counts = np.bincount(chosen, minlength=self.shape[0])
        x, g = x[order], g[order]
        columns, rows, row_sums, column_sums, rounding = [], [], [], [], []
        for begin, end in zip(np.cumsum(counts) - counts, np.cumsum(counts), strict=True):
            own_x, own_g = x[int(begin) : int(end)], g[int(begin) : int(end)]
            energy_x, energy_g = mx.square(own_x).sum(-1), mx.square(own_g).sum(-1)
            columns.append(_weighted(own_x, energy_g))
            rows.append(self._rows(own_g, energy_x))
            row_sums.append(energy_x @ mx.square(own_g))
            column_sums.append(energy_g @ mx.square(own_x))
            rounding.append(_rounding(own_x, energy_g))
        sums = mx.stack(row_sums)
        self._add_sums(sums, mx.stack(column_sums))
        self._add_rounding(mx.stack(rounding))
        self.use.add(mx.stack(columns), mx.stack(rows), counts, sums.sum(-1))

    def finish(self, mean_square_weight: float, tokens: int) -> ModuleStatistics:
        """Return the statistics per token of text, of a weight with this mean square."""
        terms = [self.use.term(tokens)] if self.use.columns is not None else []
        if self.lookup.columns is not None:
            terms.append(self._lookup_term(tokens))
        energy = float(np.array(self.row_sums).sum(dtype=np.float64))
        return ModuleStatistics(
            self.path,
            0.5 * mean_square_weight * energy / tokens,
            np.array(self.row_sums) / np.float32(tokens),
            np.array(self.column_sums) / np.float32(tokens),
            tuple(terms),
            np.asarray(self.use.count + self.lookup.count),
            None if self.rounding is None else np.array(self.rounding) / np.float32(tokens),
            None if self.head_rounding is None else 0.5 * float(self.head_rounding) / tokens,
        )

    def _lookup_term(self, tokens: int) -> KroneckerTerm:
        """Return the term of a lookup: E[g g^T] acts on the row a token reads.

        Each row gets one token's worth of the mean energy more than it was seen to have: a token
        that the sample lacks is rare, not free.
        """
        term = self.lookup.term(tokens)
        total = float(term.rows.sum(dtype=np.float64))
        smoothed = term.rows + total / max(int(self.lookup.count), 1)
        share = total / max(float(smoothed.sum(dtype=np.float64)), 1e-30)
        return KroneckerTerm(term.columns, (smoothed * share).astype(np.float32))


def _rounding(x: mx.array, weight: mx.array) -> mx.array:
    """Return sum_t weight_t dx_ti^2 for the error dx of rounding x (tokens, n) to int8."""
    if not x.shape[0]:  # an expert that no token reached
        return mx.zeros(x.shape[1])
    return weight @ mx.square(rounded(x, INT8) - x)


def _weighted(x: mx.array, weight: mx.array) -> mx.array:
    """Return sum_t weight_t x_t x_t^T for x (tokens, n) and weights that are not negative.

    A product of a matrix with its own transpose, of which a BLAS may compute half. A weight that
    was rounded below zero counts as zero.
    """
    scaled = x * mx.sqrt(mx.maximum(weight, 0))[:, None]
    return scaled.T @ scaled


def _sequence_sums(x: mx.array, g: mx.array) -> tuple[mx.array, mx.array]:
    """Return row and column sums of the squares of each sequence's G = sum_t g_t x_t^T.

    Wide modules go through the Gram matrices over tokens, without G itself:
    sum_j G_ij^2 = g_i^T (X X^T) g_i.
    """
    length, width, height = x.shape[1], x.shape[2], g.shape[2]
    if 2 * length * (width + height) < width * height:
        gram_x, gram_g = x @ x.swapaxes(1, 2), g @ g.swapaxes(1, 2)
        return ((gram_x @ g) * g).sum((0, 1)), ((gram_g @ x) * x).sum((0, 1))
    rows, columns = mx.zeros(height), mx.zeros(width)
    for sequence_x, sequence_g in zip(x, g, strict=True):
        square = mx.square(sequence_g.T @ sequence_x)
        rows, columns = rows + square.sum(1), columns + square.sum(0)
    return rows, columns
