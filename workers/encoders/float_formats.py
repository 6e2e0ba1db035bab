"""The formats mxfp4, mxfp8 and nvfp4 over the compiled kernels.

`minmax` stores what `mx.quantize` stores on a GPU: computed in float32, the power-of-two scale of
the mx formats rounded up so that nothing saturates. On the CPU mlx 0.32 works in the type of the
weights: the same codes for float32, a rounding elsewhere for about 1 % of bf16 weights. `careful`
also tries the neighbouring scales of every group and keeps the one with the least squared error.
"""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format, Mode
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.native.arrays import Array, address, storage_code
from bitbudget.workers.native.loader import kernels

__all__ = ["MODE_CODES", "encode_float_format"]

MODE_CODES: Final = {Mode.MXFP4: 0, Mode.MXFP8: 1, Mode.NVFP4: 2}


def encode_float_format(
    weight: Array, dtype: Dtype, format_: Format, encoder: Encoder
) -> dict[str, Array]:
    """Return codes and scales of a contiguous `weight` whose width the group divides."""
    spec_codes, spec_scales = format_.arrays(weight.shape, dtype)
    codes = np.empty(spec_codes.shape, np.uint32)
    scales = np.empty(spec_scales.shape, np.uint8)
    kernel = kernels().bitbudget_encode_floats
    kernel.restype = None
    kernel(
        address(weight),
        ctypes.c_longlong(scales.size),
        MODE_CODES[format_.mode],
        storage_code(dtype),
        int(encoder is Encoder.CAREFUL),
        address(codes),
        address(scales),
    )
    return {"weight": codes, "scales": scales}
