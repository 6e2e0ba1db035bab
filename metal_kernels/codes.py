"""Codes of any width, as MLX packs them: a little-endian stream in 32-bit words."""

from __future__ import annotations

import mlx.core as mx

__all__ = ["BOOK_ENTRIES", "CODE_BITS", "CODE_GROUP", "unpacked"]

CODE_BITS = (2, 3, 4)
"""Bits of a code of rotated keys or values."""
BOOK_ENTRIES = 16
"""Entries that a codebook is padded to."""
CODE_GROUP = 32
"""Codes that `mx.dequantize` unpacks together; a multiple of the codes in a whole word."""
_WORD_BITS = 32


def unpacked(words: mx.array, bits: int) -> mx.array:
    """Return the codes (..., width), uint8, of `words` (..., width * bits / 32).

    `mx.dequantize` with scale 1 and bias 0 unpacks them, in float16, which holds all codes of up to
    8 bits; the width is a multiple of 32.
    """
    width = words.shape[-1] * _WORD_BITS // bits
    ones = mx.ones((*words.shape[:-1], width // CODE_GROUP), mx.float16)
    codes = mx.dequantize(words, ones, mx.zeros_like(ones), group_size=CODE_GROUP, bits=bits)
    return codes.astype(mx.uint8)
