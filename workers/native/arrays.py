"""How arrays travel between NumPy and the kernels: bf16 as uint16 bits, contiguous, by address."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError

__all__ = [
    "Array",
    "address",
    "as_carried",
    "as_float32",
    "element_type",
    "from_float32",
    "storage_code",
    "to_float32",
]

Array = npt.NDArray[Any]

_ELEMENTS: Final = {Dtype.BF16: np.uint16, Dtype.F16: np.float16, Dtype.F32: np.float32}
_CODES: Final = {Dtype.BF16: 0, Dtype.F16: 1, Dtype.F32: 2}


def element_type(dtype: Dtype) -> np.dtype[Any]:
    """Return the NumPy type that carries `dtype`; InvalidModelError when weights cannot have it."""
    if dtype not in _ELEMENTS:
        raise InvalidModelError(
            where="weights",
            found=f"dtype {dtype.value}",
            expected="BF16, F16 or F32",
            remedy="decode the weights first or keep the module",
        )
    return np.dtype(_ELEMENTS[dtype])


def storage_code(dtype: Dtype) -> int:
    """Return the number by which the kernels know a storage type."""
    element_type(dtype)
    return _CODES[dtype]


def address(array: Array) -> ctypes.c_void_p:
    """Return the address of a contiguous array's data, which it keeps alive as long as it lives.

    A kernel may be given an array that nobody else holds: one that just left a cache, or a copy.
    """
    if not array.flags.c_contiguous:
        msg = "a kernel needs a contiguous array"
        raise ValueError(msg)
    return array.ctypes.data_as(ctypes.c_void_p)


def to_float32(array: Array, dtype: Dtype) -> npt.NDArray[np.float32]:
    """Return the exact values of weights of `dtype` as float32."""
    if dtype is Dtype.BF16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def from_float32(values: npt.NDArray[np.float32], dtype: Dtype) -> Array:
    """Round float32 to `dtype`, to nearest with ties to even."""
    if dtype is Dtype.BF16:
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)
        return (rounded >> 16).astype(np.uint16)
    return values.astype(element_type(dtype))


def as_float32(values: Array, dtype: Dtype) -> npt.NDArray[np.float32]:
    """Return weights of `dtype`, carried (bf16 as bits in uint16) or widened already, as float32.

    Not a copy where they are float32 already.
    """
    if dtype is Dtype.BF16 and values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, np.float32)


def as_carried(values: Array, dtype: Dtype) -> Array:
    """Return weights that are exact in `dtype`, as float32 or carried already, in that type."""
    if values.dtype == element_type(dtype):
        return values
    if dtype is Dtype.BF16:
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(element_type(dtype))
