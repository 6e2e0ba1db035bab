"""Which bytes make a weight, and in which pieces they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.files.headers import TensorRef
from bitbudget.workers.sweep.plan import SweepPlan, plan_sweep
from bitbudget.workers.sweep.segments import segments_of

__all__ = ["Segment", "Span", "TensorTask"]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive bytes of one file, elements of `dtype`."""

    file: str
    name: str
    offset: int
    nbytes: int
    dtype: Dtype


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a weight: the elements of `span`, the first of them at index `start`."""

    index: int
    start: int
    span: Span


@dataclass(frozen=True, slots=True)
class TensorTask:
    """A weight to measure: its mlx path, its source tensors in order and the formats wanted.

    `dtype` is what the module is stored as; sources in FP8, or in a narrower float, are decoded to
    it. `signs` (in,) asks for the block-32 rotated weight, `gains` (in,) scale the inputs.
    """

    path: str
    sources: tuple[TensorRef, ...]
    dtype: Dtype
    formats: tuple[Format, ...]
    signs: npt.NDArray[np.float32] | None = None
    gains: npt.NDArray[np.float32] | None = None

    @property
    def width(self) -> int:
        """Columns, along which groups are cut."""
        shape = self.sources[0].shape if self.sources else ()
        return shape[-1] if shape else 1

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(math.prod(source.shape) for source in self.sources)

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(source.nbytes for source in self.sources)

    def plan(self, encoder: Encoder, *, full: bool = False) -> SweepPlan:
        """Return what to do with each segment.

        Raises InvalidModelError when the sources have rows of different widths, and what
        `plan_sweep` raises.
        """
        widths = {source.shape[-1] if source.shape else 1 for source in self.sources}
        if len(widths) > 1:
            raise InvalidModelError(
                where=self.path,
                found=f"stacked tensors of widths {sorted(widths)}",
                expected="one width",
                remedy="check that the weight files belong together",
            )
        formats = tuple(format_ for format_ in self.formats if format_ != KEEP)
        return plan_sweep(
            self.dtype,
            self.width,
            self.weights,
            formats,
            encoder=encoder,
            full=full,
            signs=self.signs,
            gains=self.gains,
        )

    def segments(self, plan: SweepPlan) -> Iterator[Segment]:
        """Yield the pieces, cut at the places that `plan` fixes."""
        start, index = 0, 0
        for source in self.sources:
            before = 0
            for first, count in segments_of(source.shape, plan.segment_weights):
                span = _span(source, first, count)
                yield Segment(index, start + first, span)
                before, index = first + count, index + 1
            start += before


def _span(source: TensorRef, first: int, count: int) -> Span:
    size = source.dtype.itemsize
    return Span(source.file, source.name, source.offset + first * size, count * size, source.dtype)
