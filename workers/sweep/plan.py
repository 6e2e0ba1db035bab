"""What a sweep does to each piece of one weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.canonical import JsonObject, sha256_of
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.encoders import ENCODERS, Encoder
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import AFFINE_FORMATS, AFFINE_GROUP_SIZES, FLOAT_FORMATS, Format
from bitbudget.workers.encoders.registry import SweepKernel, sweep_kernel
from bitbudget.workers.sweep.own_formats import rows_step

__all__ = ["SEGMENT_WEIGHTS", "SweepPlan", "affine_index", "plan_sweep", "segment_weights"]

SEGMENT_WEIGHTS: Final = 1 << 22
"""About how many weights make a segment: the unit of reading, of work and of summation."""

EXACT_BELOW_WEIGHTS: Final = 1_000_000
"""Smaller weights are encoded whole by `careful`; larger ones are sampled."""

SAMPLED_CHUNKS: Final = 960
"""Chunks of 128 weights that a sampled weight is estimated from.

Standard error of the worst format on 1 million BF16 weights: 0.25 % (Gaussian, Student's t with 5
degrees of freedom), 0.31 % (3 degrees), 0.23 % (log-normal rows), 0.28 % (every 193rd column eight
times as large) and 0.46 % (1 % of the columns ten times as large).
"""


PROBED_ROWS: Final = 1024
"""Rows that the effective rank is estimated from, at most."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """Which errors are wanted of a weight of `width` columns stored as `dtype`.

    `rows_step` says which rows the effective rank is estimated from: every so many-th. `full` asks
    for the leading singular values too, and for minmax errors after a block-32 rotation.
    `weights_per_draw` is how many weights each chunk that `careful` is tried on stands for, 0 when
    all of them are encoded.
    `signs` (in,) are the +-1 of a block-32 rotation, or None. `gains` (in,) scale the inputs, None
    where nothing is known of them. Of how many rows one is encoded in our own formats says
    `own_step`.
    """

    dtype: Dtype
    width: int
    formats: tuple[Format, ...]
    encoder: Encoder
    weights_per_draw: int = 0
    rows_step: int = 1
    full: bool = False
    signs: npt.NDArray[np.float32] | None = None
    gains: npt.NDArray[np.float32] | None = None
    own_step: int = 1

    @property
    def segment_weights(self) -> int:
        """Weights of a segment of the largest size."""
        return segment_weights(self.width)

    @property
    def is_sampled(self) -> bool:
        """Whether the errors of the affine formats are estimates."""
        return self.weights_per_draw > 0

    @property
    def tries_rotation(self) -> bool:
        """Whether errors after a block-32 rotation are wanted beside those without."""
        return self.full and self.signs is None and not self.width % 32 and self.width > 0

    def draws(self, weights: int) -> int:
        """Return how many chunks of a segment are drawn, 0 for all of them."""
        return math.ceil(weights / self.weights_per_draw) if self.is_sampled else 0

    @property
    def group_sizes_mask(self) -> int:
        """Bit i is set when an affine format with the i-th group size is wanted."""
        wanted = {f.group_size for f in self.formats if f in AFFINE_FORMATS}
        return sum(1 << i for i, size in enumerate(AFFINE_GROUP_SIZES) if size in wanted)

    @property
    def float_formats(self) -> tuple[Format, ...]:
        """The mx and nv formats that are wanted."""
        return tuple(format_ for format_ in FLOAT_FORMATS if format_ in self.formats)

    def key(self) -> JsonObject:
        """Return what distinguishes results of this plan, for a cache."""
        return {
            "dtype": self.dtype.value,
            "width": self.width,
            "formats": sorted(map(str, self.formats)),
            "encoder": self.encoder.value,
            "weights_per_draw": self.weights_per_draw,
            "rows_step": self.rows_step,
            "own_step": self.own_step,
            "full": self.full,
            "signs": None if self.signs is None else np.signbit(self.signs).tobytes().hex(),
            "gains": None if self.gains is None else sha256_of(self.gains.tobytes()),
        }


def segment_weights(width: int) -> int:
    """Return the weights of a segment: whole rows of `width`, about SEGMENT_WEIGHTS of them."""
    return max(1, width) * max(1, SEGMENT_WEIGHTS // max(width, 1))


def affine_index(format_: Format) -> int:
    """Return the place of an affine format among the eighteen sums of the kernel."""
    return AFFINE_FORMATS.index(format_)


def plan_sweep(
    dtype: Dtype,
    width: int,
    weights: int,
    formats: tuple[Format, ...],
    *,
    encoder: Encoder,
    full: bool = False,
    signs: npt.NDArray[np.float32] | None = None,
    gains: npt.NDArray[np.float32] | None = None,
) -> SweepPlan:
    """Return the plan of a weight of `weights` elements in rows of `width`.

    Raises InvalidRequestError when a format does not fit the width or the encoder needs more than
    the weight.
    """
    if ENCODERS[encoder].needs_statistics:
        raise InvalidRequestError(
            where="encoder",
            found=encoder.value,
            expected=" or ".join(e for e in Encoder if not ENCODERS[e].needs_statistics),
            remedy="the errors of compensated encoders come from their own statistics",
        )
    for format_ in formats:
        if not format_.is_legal(width, dtype):
            raise InvalidRequestError(
                where=f"format {format_}",
                found=f"{width} input features of dtype {dtype.value}",
                expected=f"a multiple of {format_.group_size} in BF16, F16 or F32",
                remedy="keep the module or choose another group size",
            )
    is_sampled = sweep_kernel(encoder) is SweepKernel.CAREFUL and weights >= EXACT_BELOW_WEIGHTS
    per_draw = weights // SAMPLED_CHUNKS if is_sampled else 0
    step = max(1, math.ceil(weights / max(width, 1) / PROBED_ROWS))
    return SweepPlan(
        dtype,
        width,
        tuple(formats),
        encoder,
        per_draw,
        step,
        full,
        signs,
        gains,
        rows_step(weights),
    )
