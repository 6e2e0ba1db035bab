"""Float64 references: the definitions, computed by NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from tests.metal_emulator.emulate import to_numpy
from tests.metal_emulator.machine import Array

__all__ = ["butterfly", "dequantized", "hadamard", "to_float64", "unpacked"]


def to_float64(array: mx.array) -> Array:
    """Return the values in float64."""
    return to_numpy(array.astype(mx.float32)).astype(np.float64)


def hadamard(size: int = 32) -> Array:
    """Return Sylvester's matrix of +-1."""
    matrix = np.ones((1, 1))
    while matrix.shape[0] < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def butterfly(x: Array) -> Array:
    """Return the unscaled transform of each block of 32 along the last axis."""
    result: Array = (x.reshape(-1, 32) @ hadamard()).reshape(x.shape)
    return result


def unpacked(codes: Array, bits: int) -> Array:
    """Return the codes of a little-endian bit stream of uint32 words (rows, words)."""
    stream = np.unpackbits(codes.view(np.uint8), axis=1, bitorder="little")
    return stream.reshape(codes.shape[0], -1, bits) @ (1 << np.arange(bits))


def dequantized(packed: Sequence[mx.array], bits: int, group: int) -> Array:
    """Return scale * code + bias in float64 from codes, scales and biases."""
    codes = unpacked(to_numpy(packed[0]), bits)
    scales, biases = (np.repeat(to_float64(array), group, axis=1) for array in packed[1:])
    result: Array = scales * codes + biases
    return result
