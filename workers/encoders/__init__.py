"""How codes, scales and biases are chosen inside a format, and how they are stored."""

from __future__ import annotations

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import KEEP, Format, Mode
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.affine import encode_affine
from bitbudget.workers.encoders.float_formats import encode_float_format
from bitbudget.workers.native.arrays import Array, element_type

__all__ = ["encode"]


def encode(weight: Array, dtype: Dtype, format_: Format, encoder: Encoder) -> dict[str, Array]:
    """Return the arrays of `format_` that hold `weight`, by suffix, as MLX stores them.

    `weight` is (..., out, in) in the NumPy type that carries `dtype` (bf16 as uint16 bits); scales
    and biases come back in the same type. `minmax` gives the arrays of `mx.quantize`. The same
    input gives the same bytes on every platform.

    Raises InvalidRequestError when the format does not fit the width, or when the encoder needs
    more than the weight.
    """
    values = np.ascontiguousarray(weight, dtype=None if format_ == KEEP else element_type(dtype))
    if format_ == KEEP:
        return {"weight": values}
    _check(values, dtype, format_, encoder)
    if format_.mode is Mode.AFFINE:
        return encode_affine(values, dtype, format_, encoder)
    return encode_float_format(values, dtype, format_, encoder)


def _check(weight: Array, dtype: Dtype, format_: Format, encoder: Encoder) -> None:
    width = weight.shape[-1] if weight.ndim else 0
    if not format_.is_legal(width, dtype):
        raise InvalidRequestError(
            where=f"format {format_}",
            found=f"{width} input features",
            expected=f"a multiple of {format_.group_size}",
            remedy="keep the module or choose another group size",
        )
    if encoder not in (Encoder.MINMAX, Encoder.CAREFUL):
        raise InvalidRequestError(
            where="encoder",
            found=encoder.value,
            expected="minmax or careful",
            remedy="compensated encoders need statistics: call gptq or yaqa",
        )
