"""The curve of one module: what the deployed encoder's own error costs in every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.activations import INT8_NATS
from bitbudget.app.core.encoders import Encoder, encoder_by_weights
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import KEEP_POINT, Curve, CurvePoint
from bitbudget.workers.curves.exact import kl_curve
from bitbudget.workers.curves.rounding import input_rounding_nats
from bitbudget.workers.curves.sampled import sample_size, sampled_curve
from bitbudget.workers.fisher import ModuleStatistics
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.streaming.digest import digest_of_parts
from bitbudget.workers.sweep import measure_weight

__all__ = ["CurveTask", "curve_of", "make_curve"]


@dataclass(frozen=True, slots=True)
class CurveTask:
    """What a curve is made from beside the module's weight and statistics.

    `gains` (in,) are those of the norm that the module reads, where it reads one.
    """

    module: Module
    options: MeasureOptions
    alpha_nats: float
    gains: npt.NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        """Bytes of the module's weight."""
        return self.module.weights * self.module.dtype.itemsize


def make_curve(
    checkpoint: Checkpoint, task: CurveTask, statistics: ModuleStatistics | None
) -> Curve:
    """Return the curve; without statistics it is that of an encoder that needs none."""
    return curve_of(list(checkpoint.parts(task.module.path)), task, statistics)


def curve_of(
    parts: list[npt.NDArray[Any]], task: CurveTask, statistics: ModuleStatistics | None
) -> Curve:
    """Return the curve of a weight: one array, or one for each expert, in the dtype's own type."""
    module, options, alpha = task.module, task.options, task.alpha_nats
    formats = tuple(f for f in module.legal_formats(options.formats) if f != KEEP)
    full = options.features == "full"
    encoder = encoder_by_weights(options.encoder) if statistics is None else Encoder.MINMAX
    errors = measure_weight(
        parts,
        module.dtype,
        formats if statistics is None or full else (),
        encoder,
        name=module.path,
        full=full,
        gains=task.gains,
    )
    if statistics is None:
        uncertain = errors.t2_relative_error
        points = [
            CurvePoint(f, errors.t2[f], alpha * errors.t2[f], uncertain.get(f, 0.0))
            for f in formats
        ]
    else:
        points = _points(module, formats, options, parts, statistics)
    features = dict(errors.features)
    rounding = None if statistics is None else input_rounding_nats(parts, module.dtype, statistics)
    if rounding is not None:
        features[INT8_NATS] = rounding
    return Curve(module.path, alpha, (*points, KEEP_POINT), digest_of_parts(parts), features)


def _points(
    module: Module,
    formats: tuple[Format, ...],
    options: MeasureOptions,
    parts: list[npt.NDArray[Any]],
    statistics: ModuleStatistics,
) -> list[CurvePoint]:
    """Return the cost of the deployed encoder's own error in every format.

    Of a large module it is estimated: coding it whole in every format takes minutes to hours.
    """
    encoder, size = options.encoder, sample_size(options.effort)
    if statistics.terms and size is not None and size.takes(module.shape):
        return sampled_curve(module, parts, formats, encoder, statistics, size=size)
    weight = (parts[0] if len(parts) == 1 else np.stack(parts)).reshape(module.shape)
    points = kl_curve(module, weight, formats, encoder, statistics)
    return [point for point in points if point.format != KEEP]
