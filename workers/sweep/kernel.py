"""The sums of one segment, computed by the compiled kernels."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import AFFINE_FORMATS, FLOAT_FORMATS
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.float_formats import BLOCK_FLOATS
from bitbudget.workers.encoders.registry import SweepKernel, squared_errors, sweep_kernel
from bitbudget.workers.native.arrays import Array, address, storage_code
from bitbudget.workers.native.loader import kernels
from bitbudget.workers.sweep.columns import ColumnSums, sum_columns
from bitbudget.workers.sweep.own_formats import OwnSums, encode_rows
from bitbudget.workers.sweep.plan import SweepPlan, affine_index
from bitbudget.workers.sweep.sampling import (
    CHUNK_WEIGHTS,
    KNOWN,
    SampleSums,
    draw_chunks,
    spreads_of,
)
from bitbudget.workers.sweep.spectrum import SpectrumSums, probe_segment

__all__ = ["POWER_SUMS", "SegmentSums", "rotate", "sweep_segment"]

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

POWER_SUMS: Final = (
    "count",
    "sum",
    "squares",
    "cubes",
    "fourths",
    "largest",
    "outliers",
    "nans",
    "infinities",
)
KURTOSIS_BINS: Final = 512
_PADDING: Final = 32
_SIGNS_SEED: Final = 20260102
_FORMATS: Final = len(AFFINE_FORMATS)
_BLOCK_WEIGHTS: Final = 4096


class _Result(ctypes.Structure):
    _fields_ = (
        ("errors", ctypes.c_double * _FORMATS),
        ("floats", ctypes.c_double * len(BLOCK_FLOATS)),
        ("sums", ctypes.c_double * len(POWER_SUMS)),
        ("kurtosis", ctypes.c_double * KURTOSIS_BINS),
        ("known", ctypes.c_double * KNOWN),
    )


@dataclass(slots=True)
class SegmentSums:
    """Sums over some of a weight: squared errors by format, powers of the weights, kurtoses.

    `errors` (18,) are those of `minmax`, `floats` (3,) belong to FLOAT_FORMATS; formats that the
    plan does not ask for have 0. `sample` is what `careful` is estimated from. `kurtosis` counts
    groups of 128 by the bin of E[w^4]/E[w^2]^2. `own` is of rows encoded in our own formats.
    """

    errors: Doubles = field(default_factory=lambda: np.zeros(_FORMATS))
    floats: Doubles = field(default_factory=lambda: np.zeros(len(FLOAT_FORMATS)))
    powers: Doubles = field(default_factory=lambda: np.zeros(len(POWER_SUMS)))
    kurtosis: Doubles = field(default_factory=lambda: np.zeros(KURTOSIS_BINS))
    sample: SampleSums | None = None
    spectrum: SpectrumSums | None = None
    columns: ColumnSums | None = None
    rotated: Doubles = field(default_factory=lambda: np.zeros(_FORMATS))
    own: OwnSums | None = None

    def power(self, name: str) -> float:
        """Return one of POWER_SUMS."""
        return float(self.powers[POWER_SUMS.index(name)])

    def add(self, later: SegmentSums) -> None:
        """Add the sums of the segment that follows."""
        largest = POWER_SUMS.index("largest")
        peak = max(self.powers[largest], later.powers[largest])
        self.errors += later.errors
        self.floats += later.floats
        self.powers += later.powers
        self.powers[largest] = peak
        self.kurtosis += later.kurtosis
        self.rotated += later.rotated
        if later.sample is not None:
            self.sample = later.sample if self.sample is None else self.sample.joined(later.sample)
        if later.spectrum is not None:
            self.spectrum = (
                later.spectrum if self.spectrum is None else self.spectrum.joined(later.spectrum)
            )
        if later.own is not None:
            self.own = later.own if self.own is None else self.own.joined(later.own)
        if later.columns is not None:
            self.columns = (
                later.columns if self.columns is None else self.columns.joined(later.columns)
            )


def sweep_segment(segment: Array, plan: SweepPlan, start: int = 0) -> SegmentSums:
    """Return the sums of a one-dimensional `segment` that begins at weight `start` of its tensor.

    `segment` is in the NumPy type that carries the plan's dtype. NaN and infinities are counted.
    """
    weights = segment if plan.signs is None else rotate(segment, plan, start)
    missing = -weights.size % _PADDING
    if missing:
        weights = np.concatenate([weights, np.zeros(missing, weights.dtype)])
    native = sweep_kernel(plan.encoder)
    careful = native is SweepKernel.CAREFUL
    samples = careful and plan.group_sizes_mask > 0
    known = _room_for_known(weights.size) if samples else None
    result = _Result()
    call = kernels().bitbudget_sweep
    call.restype = None
    call(
        address(weights),
        ctypes.c_longlong(weights.size),
        storage_code(plan.dtype),
        plan.group_sizes_mask if native is SweepKernel.MINMAX else 0,
        0 if native is None else _modes_mask(plan),
        int(careful),
        None if known is None else address(known),
        ctypes.byref(result),
    )
    powers = np.array(result.sums)
    powers[POWER_SUMS.index("count")] -= missing
    by_code = np.array(result.floats)
    floats = np.array(
        [by_code[BLOCK_FLOATS[format_.mode].kernel_case] for format_ in FLOAT_FORMATS]
    )
    sums = SegmentSums(np.array(result.errors), floats, powers, np.array(result.kurtosis))
    if native is None and np.isfinite(sums.power("squares")):
        _add_encoded_errors(sums, weights[: segment.size], plan)
    if known is not None and np.isfinite(sums.power("squares")):
        sums.sample = _sample(weights, plan, known, np.array(result.known))
    first_row = start // max(plan.width, 1)
    if np.isfinite(sums.power("squares")):
        sums.own = encode_rows(weights[: segment.size], plan, first_row)
    sums.spectrum = probe_segment(weights[: segment.size], plan, first_row)
    sums.columns = sum_columns(weights[: segment.size], plan, first_row)
    if plan.tries_rotation:
        sums.rotated = _rotated_errors(segment, plan, start)
    return sums


def _add_encoded_errors(sums: SegmentSums, weights: Array, plan: SweepPlan) -> None:
    """Add the errors of an encoder that no sweep kernel has: those of what it stores.

    A segment is whole rows but for the last of a tensor that is cut elsewhere.
    """
    rows = weights.reshape(-1, plan.width)
    stock = [format_ for format_ in plan.formats if format_.is_stock]
    found = squared_errors(rows, plan.dtype, stock, plan.encoder)
    for format_, error in found.items():
        if format_ in FLOAT_FORMATS:
            sums.floats[FLOAT_FORMATS.index(format_)] += error
        else:
            sums.errors[affine_index(format_)] += error


def _rotated_errors(segment: Array, plan: SweepPlan, start: int) -> Doubles:
    """Return the minmax errors (18,) after a block-32 rotation with signs that the width fixes."""
    signs = random_signs(plan.width)
    plain = replace(
        plan,
        formats=tuple(f for f in plan.formats if f.is_stock),
        signs=signs,
        encoder=Encoder.MINMAX,
        full=False,
        gains=None,
        rows_step=segment.size,
    )
    return sweep_segment(segment, plain, start).errors


@functools.cache
def random_signs(width: int) -> npt.NDArray[np.float32]:
    """Return the +-1 (in,) of the rotation that `full` measures, the same for every weight."""
    drawn = np.random.default_rng((_SIGNS_SEED, width)).integers(0, 2, width)
    return (2 * drawn - 1).astype(np.float32)


def _modes_mask(plan: SweepPlan) -> int:
    return sum(1 << BLOCK_FLOATS[format_.mode].kernel_case for format_ in plan.float_formats)


def _room_for_known(weights: int) -> Floats:
    """Return rows for what is known of each chunk, of as many chunks as fill whole blocks."""
    return np.empty(
        (KNOWN, -(-weights // _BLOCK_WEIGHTS) * _BLOCK_WEIGHTS // CHUNK_WEIGHTS), np.float32
    )


def _sample(weights: Array, plan: SweepPlan, known: Floats, whole: Doubles) -> SampleSums:
    spreads = spreads_of(known[:, : -(-weights.size // CHUNK_WEIGHTS)])
    drawn = draw_chunks(spreads, plan.draws(weights.size))
    chosen = np.concatenate([drawn.certain, drawn.drawn])
    chunks = weights if not drawn.drawn.size else _gathered(weights, chosen)
    errors = np.zeros((chosen.size, _FORMATS))
    call = kernels().bitbudget_careful
    call.restype = None
    call(
        address(chunks),
        ctypes.c_longlong(chunks.size),
        storage_code(plan.dtype),
        plan.group_sizes_mask,
        address(errors),
    )
    return SampleSums.of(whole, drawn, known[:, chosen].T.astype(np.float64), errors)


def _gathered(weights: Array, chunks: npt.NDArray[np.int64]) -> Array:
    """Return the chosen chunks in a row; an incomplete last one is filled up with zeros."""
    missing = -weights.size % CHUNK_WEIGHTS
    if missing and chunks.max() == weights.size // CHUNK_WEIGHTS:
        weights = np.concatenate([weights, np.zeros(missing, weights.dtype)])
    whole = weights[: weights.size // CHUNK_WEIGHTS * CHUNK_WEIGHTS]
    return np.ascontiguousarray(whole.reshape(-1, CHUNK_WEIGHTS)[chunks]).reshape(-1)


def rotate(segment: Array, plan: SweepPlan, start: int = 0) -> Array:
    """Return the block-32 rotation of a segment, rounded to the plan's dtype.

    Every 32 columns are multiplied by the plan's signs and by the Sylvester-Hadamard matrix over
    sqrt(32), as `mx.hadamard_transform` orders it.
    """
    if plan.signs is None or plan.width % _PADDING or start % _PADDING:
        msg = f"rotating needs signs and a width that 32 divides, found {plan.width}"
        raise ValueError(msg)
    signs = np.ascontiguousarray(plan.signs, np.float32)
    rotated = np.empty_like(segment)
    storage = storage_code(Dtype(plan.dtype))
    call = kernels().bitbudget_rotate
    call.restype = None
    lengths = [ctypes.c_longlong(value) for value in (segment.size, plan.width, start)]
    pointers = (address(signs), *lengths[1:], address(rotated))
    call(address(np.ascontiguousarray(segment)), lengths[0], storage, *pointers)
    return rotated
