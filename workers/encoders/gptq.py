"""Compensated encoders in MLX's affine storage: `gptq`, and `yaqa` which also sees B."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.core.dtypes import Dtype
from app.core.errors import InvalidRequestError
from app.core.formats import Format, Mode
from app.core.measurement import Encoder
from workers.encoders.compensated import Coded, compensate, inverse_factor, row_feedback
from workers.encoders.packing import pack
from workers.fisher.statistics import ModuleStatistics

__all__ = ["ModuleEncoder", "encode_gptq"]


def encode_gptq(
    weight: np.ndarray,
    dtype: Dtype,
    format_: Format,
    second_moment: np.ndarray,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the arrays of an affine `format_` by suffix, as `workers.encoders.encode` does.

    Args:
        weight: float32 (..., out, in).
        dtype: What scales and biases are stored in, that of the source weights.
        format_: An affine format whose group divides the input width.
        second_moment: A, (..., in, in); any positive multiple of it gives the same codes.
        rows: B, (..., out, out), makes the encoder two-sided (YAQA); a diagonal has no effect.
    """
    if format_.mode is not Mode.AFFINE:
        raise InvalidRequestError(
            where=f"format {format_}",
            found=format_.mode.value,
            expected="an affine format",
            remedy="encode it with careful",
        )
    lead = weight.shape[:-2]
    parts = [
        compensate(
            np.asarray(weight[index], np.float32),
            inverse_factor(second_moment[index]),
            (format_,),
            dtype,
            _feedback(None if rows is None else rows[index]),
        )[format_]
        for index in np.ndindex(*lead)
    ]
    arrays = [_arrays(part, format_, dtype) for part in parts]
    return {
        suffix: np.stack([part[suffix] for part in arrays]).reshape(*lead, *arrays[0][suffix].shape)
        for suffix in arrays[0]
    }


class ModuleEncoder:
    """`gptq` or `yaqa` with one module's statistics, whose experts share a pooled moment."""

    def __init__(self, statistics: ModuleStatistics, encoder: Encoder) -> None:
        self.statistics = statistics
        self.moment = statistics.second_moment
        self.rows = _rows(encoder, statistics)

    def encode(
        self, weight: np.ndarray, dtype: Dtype, format_: Format, index: tuple[int, ...] = ()
    ) -> dict[str, np.ndarray]:
        """Return the arrays of one expert's float32 weight (or of the whole, for `()`)."""
        rows = None if self.rows is None else self.rows[index]
        return encode_gptq(weight, dtype, format_, self.moment[index], rows)

    def code(
        self, weight: np.ndarray, dtype: Dtype, formats: Sequence[Format], index: tuple[int, ...]
    ) -> dict[Format, Coded]:
        """Return one expert's float32 weight coded in every format."""
        rows = None if self.rows is None else self.rows[index]
        factor = inverse_factor(self.moment[index])
        return compensate(np.asarray(weight, np.float32), factor, formats, dtype, _feedback(rows))


def _rows(encoder: Encoder, statistics: ModuleStatistics) -> np.ndarray | None:
    """Return B if the encoder uses it; an embedding's two uses have no common one."""
    if encoder is not Encoder.YAQA or len(statistics.terms) != 1:
        return None
    term = statistics.terms[0]
    return term.rows if term.rows.ndim == term.columns.ndim else None


def _feedback(rows: np.ndarray | None) -> np.ndarray | None:
    if rows is None or rows.ndim < 2:  # noqa: PLR2004 - a diagonal B couples no rows
        return None
    return row_feedback(rows)


def _arrays(part: Coded, format_: Format, dtype: Dtype) -> dict[str, np.ndarray]:
    return {
        "weight": pack(part.codes, format_.bits),
        "scales": _as_stored(part.scales, dtype),
        "biases": _as_stored(part.biases, dtype),
    }


def _as_stored(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return values that are exact in `dtype` in the type that carries it; bf16 as its bits."""
    if dtype is Dtype.BF16:
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if dtype is Dtype.F16 else np.float32)
