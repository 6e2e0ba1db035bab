"""The affine format: the encoders `minmax` and `careful` over the compiled kernels."""

from __future__ import annotations

import ctypes

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.native.arrays import Array, address, storage_code
from bitbudget.workers.native.loader import kernels

__all__ = ["encode_affine"]


def encode_affine(
    weight: Array, dtype: Dtype, format_: Format, encoder: Encoder
) -> dict[str, Array]:
    """Return codes, scales and biases of a contiguous `weight` whose width the group divides.

    `minmax` is bit-exact with `mx.quantize` on the CPU. `careful` takes codes against the stored
    scale and bias, chosen by alternating least squares from two starts of four rounds.
    """
    spec_codes, spec_scales, _ = format_.arrays(weight.shape, dtype)
    codes = np.empty(spec_codes.shape, np.uint32)
    scales = np.empty(spec_scales.shape, weight.dtype)
    biases = np.empty(spec_scales.shape, weight.dtype)
    kernel = getattr(kernels(), f"bitbudget_encode_{encoder.value}")
    kernel.restype = None
    kernel(
        address(weight),
        ctypes.c_longlong(scales.size),
        format_.group_size,
        format_.bits,
        storage_code(dtype),
        address(codes),
        address(scales),
        address(biases),
    )
    return {"weight": codes, "scales": scales, "biases": biases}
