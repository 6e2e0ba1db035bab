"""The encoder `gptq`: error feedback against the input side of the Fisher information alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.encoders import ENCODERS, Encoder
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import Format
from bitbudget.workers.encoders.target import Target

if TYPE_CHECKING:
    from bitbudget.workers.fisher.statistics import ModuleStatistics

__all__ = ["encode_gptq", "gptq_target"]


def gptq_target(
    _statistics: ModuleStatistics, moment: np.ndarray, _index: tuple[int, ...], out: int
) -> Target:
    """Return the objective of one expert with `out` rows: A is `moment`, B the identity."""
    free = np.ones(out, np.float32)
    return Target(moment, ((moment, free),), free)


def encode_gptq(
    weight: np.ndarray,
    dtype: Dtype,
    format_: Format,
    second_moment: np.ndarray,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the arrays of an integer `format_` by suffix, as `encode` does.

    Args:
        weight: float32 (..., out, in).
        dtype: What scales and biases are stored in, that of the source weights.
        format_: Of integer codes, whose group divides the input width.
        second_moment: A, (..., in, in); any positive multiple of it gives the same codes.
        rows: B, (..., out, out), makes the encoder two-sided (YAQA); a diagonal has no effect.
    """
    if format_ not in ENCODERS[Encoder.GPTQ].formats:
        raise InvalidRequestError(
            where=f"format {format_}",
            found=format_.mode.value,
            expected="a format of integer codes",
            remedy="encode it with careful",
        )
    lead = weight.shape[:-2]
    arrays = []
    for index in np.ndindex(*lead):
        moment = second_moment[index]
        own = np.ones(weight.shape[-2], np.float32) if rows is None else rows[index]
        target = Target(moment, ((moment, own),), own)
        coded = target.code(np.asarray(weight[index], np.float32), (format_,), dtype)
        arrays.append(coded[format_].arrays(format_, dtype))
    return {
        suffix: np.stack([part[suffix] for part in arrays]).reshape(*lead, *arrays[0][suffix].shape)
        for suffix in arrays[0]
    }
