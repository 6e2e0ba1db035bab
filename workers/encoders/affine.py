"""The affine number format: MLX's arrays from weights by the compiled kernels, and back."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.workers.encoders.packing import unpack
from bitbudget.workers.native.arrays import Array, address, storage_code, to_float32
from bitbudget.workers.native.loader import kernels

__all__ = ["dequantize_affine", "encode_affine"]


def encode_affine(
    weight: Array, dtype: Dtype, format_: Format, *, careful: bool
) -> dict[str, Array]:
    """Return codes, scales and biases of a contiguous `weight` whose width the group divides.

    Bit-exact with `mx.quantize` on the CPU. `careful` takes codes against the stored scale and
    bias, chosen by alternating least squares from two starts of four rounds.
    """
    spec_codes, spec_scales, _ = format_.arrays(weight.shape, dtype)
    codes = np.empty(spec_codes.shape, np.uint32)
    scales = np.empty(spec_scales.shape, weight.dtype)
    biases = np.empty(spec_scales.shape, weight.dtype)
    native = kernels()
    kernel = native.bitbudget_encode_careful if careful else native.bitbudget_encode_minmax
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


def dequantize_affine(
    arrays: Mapping[str, Array], dtype: Dtype, format_: Format
) -> npt.NDArray[np.float32]:
    """Return scale * code + bias (..., in): scale and bias widened, each step in float32."""
    codes = unpack(arrays["weight"], format_.bits)
    values = codes.astype(np.float32).reshape(*codes.shape[:-1], -1, format_.group_size)
    values *= to_float32(arrays["scales"], dtype)[..., None]
    values += to_float32(arrays["biases"], dtype)[..., None]
    return values.reshape(codes.shape)
