"""Measure one weight: squared error of every wanted format, and features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import AFFINE_FORMATS, FLOAT_FORMATS, KEEP, Format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.native.arrays import Array
from bitbudget.workers.sweep.columns import column_features
from bitbudget.workers.sweep.features import features_of
from bitbudget.workers.sweep.kernel import SegmentSums, sweep_segment
from bitbudget.workers.sweep.plan import SweepPlan, affine_index, plan_sweep
from bitbudget.workers.sweep.sampling import estimate
from bitbudget.workers.sweep.segments import cut_into_segments

__all__ = ["SWEEP_VERSION", "WeightErrors", "errors_from_sums", "measure_weight"]

SWEEP_VERSION: Final = 9
"""Raised whenever a change alters a number that a cache may hold."""

_VANISHING: Final = 2.0**-60
"""Below this absolute maximum every affine code is zero and float32 squares underflow."""


@dataclass(frozen=True, slots=True)
class WeightErrors:
    """What was measured of one weight.

    `t2` is ||W_hat - W||^2 / ||W||^2 by format; `t2_relative_error` its standard error of sampling
    over t2, for those formats that were sampled.
    """

    t2: Mapping[Format, float]
    features: Mapping[str, float]
    t2_relative_error: Mapping[Format, float] = field(default_factory=dict)


def measure_weight(
    parts: Iterable[Array],
    dtype: Dtype,
    formats: Sequence[Format],
    encoder: Encoder,
    *,
    name: str = "weight",
    full: bool = False,
    signs: npt.NDArray[np.float32] | None = None,
    gains: npt.NDArray[np.float32] | None = None,
) -> WeightErrors:
    """Measure a weight given whole or as its matrices (or stacks of them) in order.

    Every part is (..., in) in the NumPy type that carries `dtype` (bf16 as uint16 bits). `signs`
    (in,) asks for the errors of the block-32 rotated weight, `gains` (in,) for the noise at an
    output whose inputs they scale, `full` for the features of the spectrum that cost matrix
    products. `keep` among the formats gives 0.

    Raises InvalidModelError, which names the module `name`, when weights are NaN or infinite, and
    InvalidRequestError when a format does not fit the width.
    """
    arrays = list(parts)
    width = arrays[0].shape[-1] if arrays else 0
    weights = sum(array.size for array in arrays)
    wanted = tuple(format_ for format_ in formats if format_ != KEEP)
    asked: JsonObject = {"full": full, "signs": signs, "gains": gains}
    plan = plan_sweep(dtype, width, weights, wanted, encoder=encoder, **asked)
    total, start = SegmentSums(), 0
    for segment in cut_into_segments(arrays, plan.segment_weights):
        total.add(sweep_segment(segment, plan, start))
        start += segment.size
    measured = errors_from_sums(total, plan, name)
    kept = {KEEP: 0.0} if KEEP in formats else {}
    return WeightErrors({**measured.t2, **kept}, measured.features, measured.t2_relative_error)


def errors_from_sums(total: SegmentSums, plan: SweepPlan, name: str) -> WeightErrors:
    """Return the errors and features that a weight's sums give.

    Raises InvalidModelError when they show NaN, infinities or values whose squares overflow.
    """
    _check_finite(total, name)
    energy = total.power("squares")
    errors, uncertainties = total.errors, np.zeros_like(total.errors)
    if total.sample is not None:
        errors, uncertainties = estimate(total.sample)
    floats = dict(zip(FLOAT_FORMATS, total.floats, strict=True))
    t2: dict[Format, float] = {}
    relative: dict[Format, float] = {}
    own = {} if total.own is None else total.own.t2()
    for format_ in plan.formats:
        if format_ in own:
            lost, doubt = own[format_]
            t2[format_] = _ratio(lost * energy, energy, total.power("largest"))
            relative |= {format_: doubt} if plan.own_step > 1 else {}
            continue
        is_affine = format_ in AFFINE_FORMATS
        if energy == 0 and not is_affine and format_ not in floats:  # nothing there to be coded
            t2[format_] = 0.0
            continue
        error = errors[affine_index(format_)] if is_affine else floats[format_]
        t2[format_] = _ratio(float(error), energy, total.power("largest"))
        if is_affine and plan.is_sampled:
            relative[format_] = float(uncertainties[affine_index(format_)])
    features = features_of(total)
    if total.columns is not None:
        features |= column_features(total.columns, plan)
    if plan.tries_rotation:
        features |= {
            f"rotated_t2_{f}": _ratio(
                float(total.rotated[affine_index(f)]), energy, total.power("largest")
            )
            for f in plan.formats
            if f in AFFINE_FORMATS
        }
    return WeightErrors(t2, features, relative)


def _ratio(error: float, energy: float, largest: float) -> float:
    if largest == 0:
        return 0.0
    return 1.0 if largest < _VANISHING else error / energy


def _check_finite(total: SegmentSums, name: str) -> None:
    if np.isfinite(total.power("squares")):
        return
    nans, infinities = int(total.power("nans")), int(total.power("infinities"))
    found = f"{nans} NaN and {infinities} infinite weights"
    if not nans and not infinities:
        found = f"weights up to {total.power('largest'):.3g}, whose squares overflow float32"
    raise InvalidModelError(
        where=name,
        found=found,
        expected="finite weights",
        remedy="download the checkpoint again; if it is the original, the model is broken there",
    )
