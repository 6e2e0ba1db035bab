"""MLX's storage of codes: a little-endian bit stream along the row, in uint32 words."""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.workers.native.arrays import address
from bitbudget.workers.native.loader import kernels

__all__ = ["pack", "unpack"]

_CODES_PER_TURN: Final = 32
"""Codes that fill a whole number of words at any width."""
_CODES_PER_BYTES: Final = 8
"""Codes that fill a whole number of bytes at any width."""


def pack(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint32]:
    """Pack codes (..., in), each below 2^bits, into words (..., in * bits / 32).

    `in` is a multiple of 32, as every legal width is.
    """
    values = np.ascontiguousarray(codes, np.uint8)
    _check_width(values.shape[-1])
    words = np.empty((*values.shape[:-1], values.shape[-1] * bits // 32), np.uint32)
    kernel = kernels().bitbudget_pack
    kernel.restype = None
    kernel(address(values), ctypes.c_longlong(values.size), bits, address(words))
    return words


def unpack(words: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint8]:
    """Return the codes (..., in) that `pack` packed."""
    width = words.shape[-1] * 32 // bits
    _check_width(width)
    stream = np.ascontiguousarray(words, "<u4").view(np.uint8).reshape(-1, bits).astype(np.uint16)
    codes = np.empty((len(stream), _CODES_PER_BYTES), np.uint8)
    for place in range(_CODES_PER_BYTES):
        byte, shift = divmod(place * bits, 8)
        pair = stream[:, byte] >> shift
        if shift + bits > 8:  # noqa: PLR2004 - a byte
            pair |= stream[:, byte + 1] << (8 - shift)
        codes[:, place] = pair & ((1 << bits) - 1)
    return codes.reshape(*words.shape[:-1], width)


def _check_width(width: int) -> None:
    if width % _CODES_PER_TURN:
        msg = f"{width} codes in a row: a multiple of {_CODES_PER_TURN} is needed"
        raise ValueError(msg)
