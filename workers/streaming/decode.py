"""Bring source elements to the type that the kernels read, without rounding anything."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.native.arrays import Array, element_type, from_float32, to_float32

__all__ = ["decode", "float8_table"]

_FLOAT8: Final = {Dtype.F8_E4M3: (4, 7), Dtype.F8_E5M2: (5, 15)}
"""Exponent bits and bias of the 8-bit floats (OCP 8-bit floating point specification, table 1)."""

_SIZE_MASK: Final = 0x7F
"""All bits of a code but its sign; all of them set is NaN in E4M3."""


def decode(raw: Array, source: Dtype, target: Dtype) -> Array:
    """Return bytes `raw` of type `source` as the NumPy array that carries `target`.

    Raises InvalidModelError where that would round or where `source` holds no weights.
    """
    if source is target:
        return raw.view(element_type(target))
    if source in _FLOAT8:
        return from_float32(float8_table(source), target)[raw.view(np.uint8)]
    if source in (Dtype.BF16, Dtype.F16) and target is Dtype.F32:
        return to_float32(raw.view(element_type(source)), source)
    raise InvalidModelError(
        where="weights",
        found=f"tensors of dtype {source.value} in a module of {target.value}",
        expected="BF16, F16, F32 or 8-bit floats",
        remedy="keep the module or convert the checkpoint to bf16 first",
    )


@functools.cache
def float8_table(dtype: Dtype) -> npt.NDArray[np.float32]:
    """Return the values of all 256 codes of an 8-bit float."""
    exponent_bits, bias = _FLOAT8[dtype]
    mantissa_bits = 7 - exponent_bits
    codes = np.arange(256)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    exponent = codes >> mantissa_bits & ((1 << exponent_bits) - 1)
    normal = np.ldexp(1 + mantissa, exponent - bias)
    values = np.where(exponent == 0, np.ldexp(mantissa, 1 - bias), normal)
    if dtype is Dtype.F8_E4M3:
        values[codes & _SIZE_MASK == _SIZE_MASK] = np.nan
    else:
        top = exponent == (1 << exponent_bits) - 1
        values = np.where(top, np.where(mantissa == 0, np.inf, np.nan), values)
    return np.where(codes & 0x80, -values, values).astype(np.float32)
