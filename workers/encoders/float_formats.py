"""Small floats with a shared scale (mxfp4, mxfp8, nvfp4): MLX's arrays from weights, and back.

Encoding stores what `mx.quantize` stores on a GPU: computed in float32, the power-of-two scale of
the mx formats rounded up so that nothing saturates. On the CPU mlx 0.32 works in the type of the
weights: the same codes for float32, a rounding elsewhere for about 1 % of bf16 weights.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format, Mode
from bitbudget.workers.encoders.packing import unpack
from bitbudget.workers.native.arrays import Array, address, storage_code
from bitbudget.workers.native.loader import kernels

__all__ = ["BLOCK_FLOATS", "dequantize_float_format", "encode_float_format"]

Floats = npt.NDArray[np.float32]


def _e4m3_values() -> Floats:
    """Return the value of every 8-bit float with 4 exponent bits (OCP FP8; 127 and 255: NaN)."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, (code & 7) / 8
    size = np.where(exponent, 2.0 ** (exponent - 7) * (1 + mantissa), 2.0**-6 * mantissa)
    size[(code & 127) == 127] = np.nan  # noqa: PLR2004 - all bits but the sign
    return np.where(code & 128, -size, size).astype(np.float32)


_E2M1: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_E2M1_VALUES: Final = np.concatenate([_E2M1, -_E2M1])
_E4M3_VALUES: Final = _e4m3_values()
_E8M0_VALUES: Final = np.append(np.exp2(np.arange(255.0) - 127), np.nan).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _BlockFloat:
    """The number by which the kernels know a format, and the values of its codes and scales."""

    kernel_case: int
    elements: Floats
    scales: Floats


BLOCK_FLOATS: Final[Mapping[Mode, _BlockFloat]] = {
    Mode.MXFP4: _BlockFloat(0, _E2M1_VALUES, _E8M0_VALUES),
    Mode.MXFP8: _BlockFloat(1, _E4M3_VALUES, _E8M0_VALUES),
    Mode.NVFP4: _BlockFloat(2, _E2M1_VALUES, _E4M3_VALUES),
}
"""Cases of `with_mode` in `workers/native/floats.h`."""


def encode_float_format(
    weight: Array, dtype: Dtype, format_: Format, *, careful: bool
) -> dict[str, Array]:
    """Return codes and scales of a contiguous `weight` whose width the group divides.

    `careful` also tries the neighbouring scales of every group and keeps the one with the least
    squared error.
    """
    spec_codes, spec_scales = format_.arrays(weight.shape, dtype)
    codes = np.empty(spec_codes.shape, np.uint32)
    scales = np.empty(spec_scales.shape, np.uint8)
    kernel = kernels().bitbudget_encode_floats
    kernel.restype = None
    kernel(
        address(weight),
        ctypes.c_longlong(scales.size),
        BLOCK_FLOATS[format_.mode].kernel_case,
        storage_code(dtype),
        int(careful),
        address(codes),
        address(scales),
    )
    return {"weight": codes, "scales": scales}


def dequantize_float_format(
    arrays: Mapping[str, Array], _dtype: Dtype, format_: Format
) -> npt.NDArray[np.float32]:
    """Return element times scale (..., in) in float32."""
    numbers = BLOCK_FLOATS[format_.mode]
    codes = unpack(arrays["weight"], format_.bits)
    groups = numbers.elements[codes].reshape(*codes.shape[:-1], -1, format_.group_size)
    groups *= numbers.scales[arrays["scales"]][..., None]
    return groups.reshape(codes.shape)
