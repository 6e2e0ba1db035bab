"""The curves of a module from some of its rows, with their standard error.

Coding all of a weight in every format costs in proportion to its width and height: many hours of a
processor for a model of eight billion weights. What rows cost, each by itself, differs little but
for what is known of all of them beforehand, so that some of them tell what all cost. Where the
encoder sees a whole B, and rows make up for each other's errors, what that gains is taken from two
formats: of all of the module, or of all rows of some columns of a large one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.effort import EFFORTS, Effort
from bitbudget.app.core.encoders import ENCODERS, Encoder
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import CurvePoint
from bitbudget.workers.curves.anchors import Gain, anchor_formats, between_anchors
from bitbudget.workers.curves.exact import coding_errors
from bitbudget.workers.curves.row_feedback import coupling_gains, typical_columns
from bitbudget.workers.curves.row_sampling import Drawn, draw, estimate, random_start
from bitbudget.workers.curves.sampled_costs import (
    Frame,
    Part,
    Predicted,
    diagonal_of,
    frame_of,
)
from bitbudget.workers.encoders.descent import curve_sweeps
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher.statistics import KroneckerTerm, ModuleStatistics
from bitbudget.workers.native.arrays import as_float32

__all__ = ["SAMPLE", "SampleSize", "sample_size", "sampled_curve"]

Weights = npt.NDArray[Any]


_FEW_SWEEPS: Final = 0.02
"""What codes gain, at most, from the sweeps that a curve leaves out."""
_ANCHORED_DOUBT: Final = 0.05
"""Standard error of a format between those in which all rows were coded, relative to the logarithm
of the correction."""
_GAIN_DOUBT: Final = 0.15
"""Standard error of a gain seen on some columns, relative to its logarithm, on trained modules."""


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Which modules are sampled, and how many of their rows."""

    more_than: int = 1 << 16
    """Weights of a matrix whose curve is still exact."""
    rows: int = 64
    """Rows of a matrix, at least."""
    anchored: int = 1 << 20
    """Weights of a matrix that is coded whole, too, in the anchor formats."""
    row_weights: int = 1 << 20
    """Weights of the rows of a larger matrix, twice as many where B is diagonal."""
    stack: int = 1 << 20
    """Weights of a stack of experts whose curve is still exact."""
    experts: int = 16
    """Units of rows of a stack of experts: as many experts, or some of them more than once."""
    expert_rows: int = 32
    """Rows of such a unit: a panel of the kernels."""

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a module (..., out, in) is sampled: it is dear, and several times the sample."""
        experts = math.prod(shape[:-2])
        if experts > 1:
            most = experts * shape[-2] >= 4 * self.experts * self.expert_rows
            return math.prod(shape) > self.stack and most
        return math.prod(shape) > self.more_than and shape[-2] >= 4 * self.rows

    def rows_of(self, shape: tuple[int, ...], *, coupled: bool) -> int:
        """Return how many rows of a matrix (out, in) are drawn.

        Few where the whole corrects them; else as many as `row_weights` say, but not more than a
        quarter.
        """
        if coupled and math.prod(shape) <= self.anchored:
            return self.rows
        wanted = (1 if coupled else 2) * self.row_weights // shape[-1]
        return max(self.rows, min(wanted, shape[-2] // 4))


SAMPLE: Final = SampleSize()


def sample_size(effort: Effort) -> SampleSize | None:
    """Return how much of a module an effort codes; None where it codes all of every module."""
    rows = EFFORTS[effort].row_weights
    return None if rows is None else replace(SAMPLE, row_weights=rows)


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
    single = len(weights) == 1
    coupled = single and _couples(encoder, statistics)
    shape = module.shape[-2:]
    count = size.rows_of(shape, coupled=coupled) if single else size.experts
    frame = frame_of(weights, statistics, 1 if single else size.expert_rows)
    drawn = draw(frame.cost.shares + frame.squared.shares, count, random_start(module.path))
    work = _Work(weights, frame, drawn, encoder, statistics)
    lossy = [format_ for format_ in formats if format_ != KEEP]
    is_anchored = coupled and math.prod(shape) <= size.anchored
    return work.anchored(lossy) if is_anchored else work.points(lossy)


def _couples(encoder: Encoder, statistics: ModuleStatistics) -> bool:
    """Whether the encoder lets rows of a matrix make up for each other."""
    terms = statistics.terms
    return ENCODERS[encoder].couples_rows and len(terms) == 1 and terms[0].rows.ndim > 1


@dataclass(frozen=True)
class _Work:
    weights: Sequence[Part]
    frame: Frame
    drawn: Drawn
    encoder: Encoder
    statistics: ModuleStatistics

    @cached_property
    def _module(self) -> ModuleEncoder:
        return ModuleEncoder(self.statistics, self.encoder)

    def anchored(self, formats: Sequence[Format]) -> list[CurvePoint]:
        """Return estimates of a matrix from rows by themselves, corrected where it is coded whole.

        What no compensated encoder has is coded whole in any case.
        """
        affine = [f for f in formats if self._module.uses_statistics(f)]
        anchors = anchor_formats(affine)
        exact = self._whole([*anchors, *(f for f in formats if f not in affine)])
        none = np.zeros(len(self.drawn.units))
        found = {
            f: self._point(f, cost, squared, none)
            for f, cost, squared in self._coded(self.weights[0], self.drawn.units, affine)
        }
        usable = [f for f in anchors if min(found[f].kl_nats, found[f].t2, exact[f].kl_nats) > 0]
        known = {
            f: Gain(exact[f].kl_nats / found[f].kl_nats, exact[f].t2 / found[f].t2) for f in usable
        }
        gains = between_anchors(affine, known)
        for format_ in affine:
            point, gain = found[format_], gains.get(format_, Gain())
            kl, t2 = point.kl_nats * gain.kl, point.t2 * gain.squared
            doubt = math.hypot(_FEW_SWEEPS, _ANCHORED_DOUBT * gain.logarithm)
            exact.setdefault(format_, CurvePoint(format_, t2, kl, doubt))
        return [exact[format_] for format_ in formats]

    def _whole(self, formats: Sequence[Format]) -> dict[Format, CurvePoint]:
        """Return the exact points of one matrix."""
        part, found = self.weights[0], {}
        values = as_float32(part.weight, part.dtype)
        job = (values, part.dtype, formats, self.encoder, self.statistics)
        for _, format_, error in coding_errors(
            *job, moment=self._moments[part.index], sweeps=curve_sweeps(part.weight.shape[-1])
        ):
            t2 = float(np.einsum("ij,ij->", error, error, dtype=np.float64))
            kl = max(self.statistics.kl_nats(error), 0.0)
            t2 /= self.frame.norm or 1.0
            found[format_] = CurvePoint(format_, t2, kl, self._left_by_sweeps(format_))
        return found

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
                found[format_][2, at] = _GAIN_DOUBT * gain.logarithm
        return [self._point(format_, *found[format_]) for format_ in formats]

    def _point(
        self, format_: Format, cost: np.ndarray, squared: np.ndarray, doubt: np.ndarray
    ) -> CurvePoint:
        """Return the estimate from what the drawn units cost, their error and doubt, each (n,)."""
        kl, kl_error = self._estimate(format_, cost, self.frame.cost)
        error, t2_error = self._estimate(format_, squared, self.frame.squared)
        left = self._left_by_sweeps(format_)
        uncertain = math.hypot(max(kl_error, t2_error), float(doubt.mean()), left)
        return CurvePoint(format_, error / (self.frame.norm or 1.0), 0.5 * kl, uncertain)

    def _left_by_sweeps(self, format_: Format) -> float:
        return _FEW_SWEEPS if self._module.uses_statistics(format_) else 0.0

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
        for _, format_, error in coding_errors(
            *job, moment=self._moments[part.index], sweeps=curve_sweeps(part.weight.shape[-1])
        ):
            cost = sum(
                np.einsum("ij,ij->i", error @ term.columns, error, dtype=np.float64) * term.rows
                for term in terms
            )
            squared = np.einsum("ij,ij->i", error, error, dtype=np.float64)
            yield format_, np.bincount(owner, cost), np.bincount(owner, squared)

    def _gains(self, part: Part, formats: Sequence[Format]) -> Mapping[Format, Gain]:
        """Return what couplings between rows gain one expert where the encoder sees them."""
        terms = [term.part(part.index) for term in self.statistics.terms]
        affine = [f for f in formats if self._module.uses_statistics(f)]
        anchors = anchor_formats(affine)
        if not anchors or len(terms) > 1 or terms[0].rows.ndim == 1:
            return {}
        if not ENCODERS[self.encoder].couples_rows:
            return {}
        moment, width = self._moments[part.index], part.weight.shape[1]
        some = typical_columns(moment)
        values = as_float32(part.weight[:, some], part.dtype)
        inner = np.ascontiguousarray(moment[some, some])
        seen = self.statistics.feedback_rows(part.index)
        known = coupling_gains(
            values, part.dtype, anchors, inner, terms[0].rows, seen=seen, width=width
        )
        return between_anchors(affine, known)

    @cached_property
    def _moments(self) -> Mapping[tuple[int, ...], np.ndarray]:
        """What errors of the experts that were drawn are fed back against, (in, in) each."""
        drawn = np.unique(self.frame.experts[self.drawn.units])
        indices = [self.weights[expert].index for expert in drawn]
        if indices == [()]:
            return {(): self.statistics.second_moment}
        return self.statistics.expert_moments(indices)
