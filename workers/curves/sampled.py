"""The curves of a large module from some of its rows and columns, with their standard error.

Coding all of a large weight in every format costs in proportion to its width and height: many hours
of a processor for a model of eight billion weights. What rows cost, each by itself, differs little
but for what is known of all of them beforehand, so that a hundred tell what all cost within a few
percent. Where the encoder sees a whole B, and rows make up for each other's errors, what that gains
is taken from all rows of some columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import CurvePoint, Encoder
from bitbudget.workers.curves.exact import as_float32, coding_errors, is_compensated
from bitbudget.workers.curves.row_feedback import Gain, coupling_gains, typical_columns
from bitbudget.workers.curves.row_sampling import Drawn, draw, estimate, random_start
from bitbudget.workers.curves.sampled_costs import (
    Frame,
    Part,
    Predicted,
    diagonal_of,
    frame_of,
)
from bitbudget.workers.fisher.statistics import KroneckerTerm, ModuleStatistics

__all__ = ["SAMPLE", "SampleSize", "sampled_curve"]

Weights = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Which modules are sampled, and how many of their rows."""

    more_than: int = 1 << 20
    """Weights of a module whose curves are still exact: they take seconds of a processor."""
    rows: int = 128
    """Rows of a matrix."""
    experts: int = 16
    """Units of rows of a stack of experts: as many experts, or some of them more than once."""
    expert_rows: int = 32
    """Rows of such a unit: a panel of the kernels."""

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a module (..., out, in) is sampled: it is dear, and four times the sample."""
        experts = math.prod(shape[:-2])
        rows = self.rows if experts == 1 else self.experts * self.expert_rows
        return math.prod(shape) > self.more_than and experts * shape[-2] >= 4 * rows


SAMPLE: Final = SampleSize()


def sampled_curve(
    module: Module,
    parts: Sequence[Weights],
    formats: Sequence[Format],
    encoder: Encoder,
    statistics: ModuleStatistics,
    *,
    size: SampleSize = SAMPLE,
) -> list[CurvePoint]:
    """Return a point for each format but `keep`: `kl_curve` estimated from a sample.

    The same module gets the same sample on every run. `t2_relative_error` is the standard error of
    t2 or of the KL, whichever is larger.

    Args:
        module: Whose shape and dtype say what is stored.
        parts: The weight in the type that carries the dtype, as one array or one for each expert.
        formats: Candidates that are legal for the module.
        encoder: The deployed encoder.
        statistics: The module's own, with at least one term.
        size: Of the sample.
    """
    matrices = [matrix for part in parts for matrix in part.reshape(-1, *module.shape[-2:])]
    places = np.ndindex(*module.shape[:-2])
    weights = [
        Part(index, matrix, module.dtype) for index, matrix in zip(places, matrices, strict=True)
    ]
    unit, count = (1, size.rows) if len(weights) == 1 else (size.expert_rows, size.experts)
    frame = frame_of(weights, statistics, unit)
    drawn = draw(frame.cost.shares + frame.squared.shares, count, random_start(module.path))
    return _Work(weights, frame, drawn, encoder, statistics).points(
        [format_ for format_ in formats if format_ != KEEP]
    )


@dataclass(frozen=True)
class _Work:
    weights: Sequence[Part]
    frame: Frame
    drawn: Drawn
    encoder: Encoder
    statistics: ModuleStatistics

    def points(self, formats: Sequence[Format]) -> list[CurvePoint]:
        """Return the estimates."""
        found = {format_: np.zeros((3, len(self.drawn.units))) for format_ in formats}
        experts = self.frame.experts[self.drawn.units]
        for expert in np.unique(experts):
            at = np.flatnonzero(experts == expert)
            part, units = self.weights[expert], self.drawn.units[at]
            gains = self._gains(part, formats)
            for format_, cost, squared in self._coded(part, units, formats):
                gain = gains.get(format_, Gain())
                found[format_][0, at] = cost * gain.kl
                found[format_][1, at] = squared * gain.squared
                found[format_][2, at] = gain.doubt
        return [self._point(format_, *found[format_]) for format_ in formats]

    def _point(
        self, format_: Format, cost: np.ndarray, squared: np.ndarray, doubt: np.ndarray
    ) -> CurvePoint:
        """Return the estimate from what the drawn units cost, their error and doubt, each (n,)."""
        kl, kl_error = self._estimate(format_, cost, self.frame.cost)
        error, t2_error = self._estimate(format_, squared, self.frame.squared)
        uncertain = math.hypot(max(kl_error, t2_error), float(doubt.mean()))
        return CurvePoint(format_, error / (self.frame.norm or 1.0), 0.5 * kl, uncertain)

    def _estimate(
        self, format_: Format, found: np.ndarray, known: Predicted
    ) -> tuple[float, float]:
        at = list(self.frame.groups).index(format_.group_size)
        predicted, total = known.units[self.drawn.units, at], float(known.total[at])
        return estimate(found, predicted, total, self.drawn.probability)

    def _coded(
        self, part: Part, units: np.ndarray, formats: Sequence[Format]
    ) -> Iterator[tuple[Format, np.ndarray, np.ndarray]]:
        """Yield what each of these units costs, row by row by itself, and its squared error."""
        rows, owner = self.frame.rows_of(units)
        values = as_float32(part.weight[rows], part.dtype)
        whole = [term.part(part.index) for term in self.statistics.terms]
        terms = tuple(KroneckerTerm(term.columns, diagonal_of(term)[rows]) for term in whole)
        own = replace(self.statistics, terms=terms)
        job = (values, part.dtype, formats, self.encoder, own)
        for _, format_, error in coding_errors(*job, moment=self._moments[part.index]):
            cost = sum(
                np.einsum("ij,ij->i", error @ term.columns, error, dtype=np.float64) * term.rows
                for term in terms
            )
            squared = np.einsum("ij,ij->i", error, error, dtype=np.float64)
            yield format_, np.bincount(owner, cost), np.bincount(owner, squared)

    def _gains(self, part: Part, formats: Sequence[Format]) -> Mapping[Format, Gain]:
        """Return what couplings between rows gain one expert where the encoder sees them."""
        terms = [term.part(part.index) for term in self.statistics.terms]
        coupled = [f for f in formats if is_compensated(f, self.encoder, self.statistics)]
        has_rows = len(terms) == 1 and terms[0].rows.ndim > 1
        if self.encoder is not Encoder.YAQA or not has_rows or not coupled:
            return {}
        moment, width = self._moments[part.index], part.weight.shape[1]
        some = typical_columns(moment)
        values = as_float32(part.weight[:, some], part.dtype)
        inner = np.ascontiguousarray(moment[some, some])
        seen = self.statistics.feedback_rows(part.index)
        return coupling_gains(
            values, part.dtype, coupled, inner, terms[0].rows, seen=seen, width=width
        )

    @cached_property
    def _moments(self) -> Mapping[tuple[int, ...], np.ndarray]:
        """What errors of the experts that were drawn are fed back against, (in, in) each."""
        drawn = np.unique(self.frame.experts[self.drawn.units])
        indices = [self.weights[expert].index for expert in drawn]
        if indices == [()]:
            return {(): self.statistics.second_moment}
        return self.statistics.expert_moments(indices)
