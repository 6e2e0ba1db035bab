"""Weights packed as other tools store them, written anew in NumPy, with what their codes mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Packed = tuple[dict[str, Array], Array]
"""Arrays by the ending of their names, and the float32 weight that they stand for."""

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Where AWQ puts each of eight columns in a word (AutoAWQ, `WQLinear_GEMM.from_linear`)."""


def stream(codes: Array, bits: int) -> Array:
    """Pack rows of codes as one stream of bits, lowest first, in int32 words."""
    digits = (codes[..., None].astype(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    rows = digits.reshape(*codes.shape[:-1], -1)
    return np.packbits(rows, axis=-1, bitorder="little").view(np.int32)


def affine(weight: Array, bits: int) -> tuple[Array, Array, Array]:
    """Return codes (out, in), float16 scales and zero points (out, groups)."""
    groups = weight.reshape(*weight.shape[:-1], -1, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    scales = ((high - low) / (2**bits - 1)).astype(np.float16)
    zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 1, 2**bits - 1)
    codes = np.rint(groups / scales[..., None].astype(np.float32) + zeros[..., None])
    return np.clip(codes, 0, 2**bits - 1).reshape(weight.shape), scales, zeros


def values(codes: Array, scales: Array, zeros: Array, index: Array) -> Array:
    """Return the weights of affine codes column by column."""
    found = np.empty(codes.shape, np.float32)
    for column, group in enumerate(index):
        scale = scales[:, group].astype(np.float32)
        found[:, column] = (codes[:, column] - zeros[:, group]) * scale
    return found


def gptq(bits: int, *, ordered: bool = True) -> Callable[[Array], Packed]:
    """Return GPTQ's packing; not `ordered`, the columns of a group are spread (`desc_act`)."""

    def pack(weight: Array) -> Packed:
        codes, scales, zeros = affine(weight, bits)
        index = np.arange(weight.shape[1]) // GROUP
        if not ordered:
            order = np.random.default_rng(5).permutation(weight.shape[1])
            codes, index = codes[:, order], index[order]
        arrays = {
            ".qweight": np.ascontiguousarray(stream(codes, bits).T),
            ".qzeros": stream((zeros - 1).T, bits),
            ".scales": np.ascontiguousarray(scales.T),
            ".g_idx": index.astype(np.int32),
        }
        return arrays, values(codes, scales, zeros, index)

    return pack


def awq(weight: Array) -> Packed:
    codes, scales, zeros = affine(weight, 4)

    def columns(array: Array) -> Array:
        mixed = array.T.reshape(array.shape[1], -1, 8)[..., AWQ_ORDER]
        return stream(mixed.reshape(array.shape[1], -1), 4)

    arrays = {".qweight": columns(codes), ".qzeros": columns(zeros)}
    index = np.arange(weight.shape[1]) // GROUP
    found = values(codes, scales, zeros, index)
    return arrays | {".scales": np.ascontiguousarray(scales.T)}, found


def compressed(bits: int, *, symmetric: bool) -> Callable[[Array], Packed]:
    def pack(weight: Array) -> Packed:
        codes, scales, zeros = affine(weight, bits)
        arrays = {".weight_packed": stream(codes, bits), ".weight_scale": scales}
        arrays[".weight_shape"] = np.array(weight.shape)
        if symmetric:
            zeros = np.full_like(zeros, 2 ** (bits - 1))
        else:
            packed = stream(np.ascontiguousarray(zeros.T), bits)
            arrays[".weight_zero_point"] = np.ascontiguousarray(packed.T)
        return arrays, values(codes, scales, zeros, np.arange(weight.shape[1]) // GROUP)

    return pack


def int8(weight: Array) -> Packed:
    scales = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float32)
    codes = np.rint(weight / scales).astype(np.int8)
    return {".weight": codes, ".weight_scale": scales}, codes * scales


def nvfp4(scale_name: str, *, divides: bool) -> Callable[[Array], Packed]:
    """Return NVFP4 with a scale of the whole tensor, which ModelOpt multiplies with."""

    def pack(weight: Array) -> Packed:
        whole = np.float32(np.abs(weight).max() / 2688)
        codes, scales, *_ = mx.quantize(
            mx.array(weight / whole), group_size=16, bits=4, mode="nvfp4"
        )
        dense = mx.dequantize(codes, scales, group_size=16, bits=4, mode="nvfp4", dtype=mx.float32)
        arrays = {
            ".weight_packed" if divides else ".weight": np.array(codes).view(np.uint8),
            ".weight_scale": np.array(scales),
            scale_name: np.array([1 / whole if divides else whole], np.float32),
        }
        return arrays, np.array(dense) * whole

    return pack
