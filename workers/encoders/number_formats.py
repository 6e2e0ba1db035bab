"""The only place that knows how each number format's arrays are made and read.

Every encoder by weights alone goes through `store`; `dequantize` is what any stored arrays mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import KEEP, Format, Mode
from bitbudget.workers.encoders.affine import dequantize_affine, encode_affine
from bitbudget.workers.encoders.float_formats import (
    BLOCK_FLOATS,
    dequantize_float_format,
    encode_float_format,
)
from bitbudget.workers.encoders.integer_formats import dequantize_integers, encode_integers
from bitbudget.workers.native.arrays import Array, as_float32, element_type

__all__ = ["dequantize", "store"]


_WEIGHTS_AT_ONCE: Final = 1 << 20
"""Weights decoded together: what is computed on the way stays in the processor's cache."""


class _Encode(Protocol):
    def __call__(
        self, weight: Array, dtype: Dtype, format_: Format, *, careful: bool
    ) -> dict[str, Array]: ...


class _Dequantize(Protocol):
    def __call__(
        self, arrays: Mapping[str, Array], dtype: Dtype, format_: Format, /
    ) -> npt.NDArray[np.float32]: ...


_NUMBER_FORMATS: Final[Mapping[Mode, tuple[_Encode, _Dequantize]]] = {
    Mode.AFFINE: (encode_affine, dequantize_affine),
    **dict.fromkeys(BLOCK_FLOATS, (encode_float_format, dequantize_float_format)),
    **dict.fromkeys(
        (Mode.TWO_LEVEL, Mode.ZERO_POINT, Mode.SYMMETRIC), (encode_integers, dequantize_integers)
    ),
}


def store(weight: Array, dtype: Dtype, format_: Format, *, careful: bool) -> dict[str, Array]:
    """Return the arrays of `format_` that hold `weight`, by suffix, as MLX stores them.

    `weight` is (..., out, in) in the NumPy type that carries `dtype`. The values of a group give
    its scale by their range, with `careful` by least squares.

    Raises InvalidRequestError when the format does not fit the width.
    """
    if format_ == KEEP:
        return {"weight": np.ascontiguousarray(weight)}
    values = np.ascontiguousarray(weight, dtype=element_type(dtype))
    _check_width(values, dtype, format_)
    encode, _ = _NUMBER_FORMATS[format_.mode]
    return encode(values, dtype, format_, careful=careful)


def dequantize(
    arrays: Mapping[str, Array], format_: Format, dtype: Dtype
) -> npt.NDArray[np.float32]:
    """Return the float32 weight (..., in) that the `arrays` of `format_` stand for.

    Bit for bit `mx.dequantize` of scales and biases widened to float32. `dtype` is that of the
    source weights.
    """
    if format_ == KEEP:
        return as_float32(arrays["weight"], dtype)
    _, decode = _NUMBER_FORMATS[format_.mode]
    words = arrays["weight"]
    width = words.shape[-1] * words.itemsize * 8 // format_.bits
    rows = {name: a.reshape(-1, *a.shape[words.ndim - 1 :]) for name, a in arrays.items()}
    values = np.empty((len(rows["weight"]), width), np.float32)
    at_once = max(1, _WEIGHTS_AT_ONCE // width)
    for first in range(0, len(values), at_once):
        part = slice(first, first + at_once)
        values[part] = decode({name: a[part] for name, a in rows.items()}, dtype, format_)
    return values.reshape(*words.shape[:-1], width)


def _check_width(weight: Array, dtype: Dtype, format_: Format) -> None:
    width = weight.shape[-1] if weight.ndim else 0
    if not format_.is_legal(width, dtype):
        raise InvalidRequestError(
            where=f"format {format_}",
            found=f"{width} input features",
            expected=f"a multiple of {format_.group_size}",
            remedy="keep the module or choose another group size",
        )
