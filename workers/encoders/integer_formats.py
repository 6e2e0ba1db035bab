"""Formats of our own runtime: integer codes whose scales and biases are stored in small.

Whatever a format stores, a group of it stands for `scale * code + bias`; the kernels choose scales
and biases among those that the format has (`workers/native/grids.h`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import SPAN_COLUMNS, Format, Mode
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.kernel_target import KernelTarget
from bitbudget.workers.encoders.packing import unpack
from bitbudget.workers.native.arrays import Array, address, as_float32, to_float32
from bitbudget.workers.native.loader import kernels

__all__ = ["dequantize_integers", "encode_integers"]

_PANEL: Final = 32
_MIDDLE: Final = 128
"""The zero point of symmetric 8-bit codes."""


def encode_integers(
    weight: Array, dtype: Dtype, format_: Format, *, careful: bool
) -> dict[str, Array]:
    """Return the arrays of a contiguous `weight` (..., out, in) in one of our own formats.

    `careful` takes scales and biases by alternating least squares against the values that can be
    stored, else by the range of each group.
    """
    *_, out, width = weight.shape if weight.ndim > 1 else (1, *weight.shape)
    matrices = weight.reshape(-1, out, width)
    found = [_coded(as_float32(one, dtype), dtype, format_, careful=careful) for one in matrices]
    parts = [one.arrays(format_, dtype) for one in found]
    shapes = {spec.suffix: spec.shape for spec in format_.arrays(weight.shape, dtype)}
    return {
        suffix: np.stack([part[suffix] for part in parts]).reshape(shape)
        for suffix, shape in shapes.items()
    }


def _coded(
    weight: npt.NDArray[np.float32], dtype: Dtype, format_: Format, *, careful: bool
) -> Coded:
    out, width = weight.shape
    padded = np.zeros((width, -(-out // _PANEL) * _PANEL), np.float32)
    padded[:, :out] = weight.T
    target = KernelTarget.new(padded.shape, format_, dtype)
    scratch = np.empty((width, _PANEL), np.float32)
    call = kernels().bitbudget_code_alone
    call.restype = None
    call(target.reference, address(padded), ctypes.c_int(careful), address(scratch))
    return target.coded(out)


def dequantize_integers(
    arrays: Mapping[str, Array], _dtype: Dtype, format_: Format
) -> npt.NDArray[np.float32]:
    """Return scale * code + bias (..., in), each step in float32."""
    codes = unpack(arrays["weight"], format_.bits)
    scales, biases = _PARAMETERS[format_.mode](arrays, format_.group_size)
    values = codes.astype(np.float32).reshape(*codes.shape[:-1], -1, format_.group_size)
    values *= scales[..., None]
    values += biases[..., None]
    return values.reshape(codes.shape)


def _two_level(arrays: Mapping[str, Array], group_size: int) -> tuple[np.ndarray, np.ndarray]:
    small = arrays["scales"]
    spans = to_float32(arrays["spans"], Dtype.BF16)
    number = np.arange(small.shape[-1]) * group_size // SPAN_COLUMNS
    steps, lows = spans[..., number, 0], spans[..., number, 1]
    return steps * (small & 15), -(lows * (small >> 4))


def _zero_point(arrays: Mapping[str, Array], _group_size: int) -> tuple[np.ndarray, np.ndarray]:
    scales = to_float32(arrays["scales"], Dtype.BF16)
    pairs = arrays["zero_points"]
    zeros = np.stack([pairs & 15, pairs >> 4], -1).reshape(*pairs.shape[:-1], -1)
    return scales, -(scales * zeros[..., : scales.shape[-1]])


def _symmetric(arrays: Mapping[str, Array], _group_size: int) -> tuple[np.ndarray, np.ndarray]:
    scales = to_float32(arrays["scales"], Dtype.BF16)
    return scales, -(scales * np.float32(_MIDDLE))


_PARAMETERS: Final = {
    Mode.TWO_LEVEL: _two_level,
    Mode.ZERO_POINT: _zero_point,
    Mode.SYMMETRIC: _symmetric,
}
"""Mode -> scales and biases (..., groups) of the stored arrays."""
