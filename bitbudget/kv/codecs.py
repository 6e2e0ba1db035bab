"""How a vector of keys or values is stored: affine codes in groups, or a rotated codebook.

`t2`, `t3` and `t4` follow TurboQuant (arXiv 2504.19874): a vector x of d channels is rotated,
y = x R, and every coordinate of y is replaced by the nearest entry of a Lloyd-Max codebook for the
coordinates of a random unit vector. One scale per vector is stored. It is the least-squares scale
<y, c> / <c, c> of the codebook vector c, which loses less than the norm at the same bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final, Protocol

import mlx.core as mx
import numpy as np

from bitbudget.metal_kernels.codes import CODE_BITS, CODE_GROUP

__all__ = [
    "ROTATED_BITS",
    "AffineCodec",
    "Arrays",
    "Codec",
    "PlainCodec",
    "RotatedCodec",
    "codebook",
    "parse_codec",
    "rotation",
]

Arrays = tuple[mx.array, ...]
"""What is stored of vectors (..., tokens, width): arrays of the same leading axes."""

_WORD_BITS: Final = 32
ROTATED_BITS: Final = CODE_BITS
_AFFINE_ARRAYS: Final = 3
_ROUNDS: Final = 3
"""Times that codes and scale are chosen, each given the other; neither can raise the error."""
_LARGEST_SCALE: Final = 65504.0
"""Of float16."""


class Codec(Protocol):
    """One way of storing keys or values of one width."""

    @property
    def name(self) -> str:
        """What `parse_codec` reads: `8g64`, `t3:64:12`."""

    @property
    def bits(self) -> int:
        """Bits of a code."""

    def encode(self, x: mx.array) -> Arrays:
        """Return the stored arrays of vectors (..., tokens, width)."""

    def decode(self, stored: Arrays, dtype: mx.Dtype) -> mx.array:
        """Return the vectors that `stored` stands for, in the space that attention works in."""

    def enter(self, x: mx.array) -> mx.array:
        """Take vectors from the model's space to that of `decode`."""

    def leave(self, x: mx.array) -> mx.array:
        """Take vectors from the space of `decode` back to the model's."""

    def takes(self, width: int) -> bool:
        """Whether vectors of `width` channels can be stored so."""

    def fits(self, stored: Arrays) -> bool:
        """Whether `stored` has the arrays, shapes and types that `encode` gives."""


class _Unrotated:
    """The space of `decode` is the model's own."""

    def enter(self, x: mx.array) -> mx.array:
        """Return `x`: nothing is rotated."""
        return x

    def leave(self, x: mx.array) -> mx.array:
        """Return `x`: nothing is rotated."""
        return x


@dataclass(frozen=True)
class PlainCodec(_Unrotated):
    """Vectors as the model computes them, beside another side that is quantized."""

    bits: int = 16

    @property
    def name(self) -> str:
        """Return `plain`."""
        return "plain"

    def encode(self, x: mx.array) -> Arrays:
        """Return `x` alone."""
        return (x,)

    def decode(self, stored: Arrays, dtype: mx.Dtype) -> mx.array:
        """Return what was stored."""
        return stored[0].astype(dtype)

    def takes(self, width: int) -> bool:
        """Return True for every width."""
        return width > 0

    def fits(self, stored: Arrays) -> bool:
        """Return whether it is one array of floats."""
        return len(stored) == 1 and mx.issubdtype(stored[0].dtype, mx.floating)


@dataclass(frozen=True)
class AffineCodec(_Unrotated):
    """Codes, scales and biases of `mx.quantize`, as mlx-lm's `QuantizedKVCache` holds them."""

    bits: int
    group_size: int

    @property
    def name(self) -> str:
        """Such as `8g64`."""
        return f"{self.bits}g{self.group_size}"

    def encode(self, x: mx.array) -> Arrays:
        """Return codes, scales and biases."""
        return tuple(mx.quantize(x, group_size=self.group_size, bits=self.bits))

    def decode(self, stored: Arrays, dtype: mx.Dtype) -> mx.array:
        """Return scale x code + bias."""
        codes, scales, biases = stored
        return mx.dequantize(
            codes,
            scales.astype(dtype),
            biases.astype(dtype),
            group_size=self.group_size,
            bits=self.bits,
        )

    def takes(self, width: int) -> bool:
        """Return whether groups divide `width`."""
        return width > 0 and not width % self.group_size

    def fits(self, stored: Arrays) -> bool:
        """Return whether it is codes, and a scale and a bias for each group of them."""
        if len(stored) != _AFFINE_ARRAYS or stored[0].dtype != mx.uint32:
            return False
        groups = stored[0].shape[-1] * _WORD_BITS // self.bits // self.group_size
        shape = (*stored[0].shape[:-1], groups)
        return groups > 0 and stored[1].shape == stored[2].shape == shape


@dataclass(frozen=True)
class RotatedCodec:
    """`bits` + 16 / `width` bits per channel: codes of a rotated vector and one float16 scale.

    `seed` draws the signs of the rotation. `decode` gives rotated vectors: attention rotates the
    query once instead of every key, and its output once instead of every value.
    """

    bits: int
    width: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be packed: ValueError names the width."""
        if self.bits not in ROTATED_BITS or self.width <= 0 or self.width % CODE_GROUP:
            msg = (
                f"heads of {self.width} channels in {self.bits} bits: rotated KV codecs have"
                f" {', '.join(map(str, ROTATED_BITS))} bits and widths that {CODE_GROUP} divides"
            )
            raise ValueError(msg)

    @property
    def name(self) -> str:
        """Such as `t3:64:12`: bits, width, seed."""
        return f"t{self.bits}:{self.width}:{self.seed}"

    @cached_property
    def _rotation(self) -> mx.array:
        return mx.array(rotation(self.width, self.seed))

    @cached_property
    def book(self) -> mx.array:
        """The codebook's entries, rising, float32."""
        return mx.array(codebook(self.bits, self.width))

    def encode(self, x: mx.array) -> Arrays:
        """Return packed codes (..., width * bits / 32), uint32, and scales (..., 1), float16."""
        y = x.astype(mx.float32) @ self._rotation
        scale = mx.sqrt(mx.square(y).mean(axis=-1, keepdims=True))
        for _ in range(_ROUNDS):
            codes = _nearest(y / mx.maximum(scale, 1e-30), self.book)
            entries = self.book[codes]
            fitted = (y * entries).sum(axis=-1, keepdims=True)
            scale = fitted / mx.square(entries).sum(axis=-1, keepdims=True)
        return _pack(codes, self.bits), mx.minimum(scale, _LARGEST_SCALE).astype(mx.float16)

    def decode(self, stored: Arrays, dtype: mx.Dtype) -> mx.array:
        """Return scale x codebook entry: vectors (..., tokens, width) in rotated space."""
        words, scales = stored
        return _entries(words, self.bits, self.book.astype(dtype)) * scales.astype(dtype)

    def enter(self, x: mx.array) -> mx.array:
        """Return x R."""
        return x @ self._rotation.astype(x.dtype)

    def leave(self, x: mx.array) -> mx.array:
        """Return x R^T."""
        return x @ self._rotation.T.astype(x.dtype)

    def takes(self, width: int) -> bool:
        """Return whether it is the width that the codec was made for."""
        return width == self.width

    def fits(self, stored: Arrays) -> bool:
        """Return whether it is codes of the width, and a scale for each vector."""
        if [x.dtype for x in stored] != [mx.uint32, mx.float16]:
            return False
        leading = stored[0].shape[:-1]
        words = self.width * self.bits // _WORD_BITS
        return stored[0].shape == (*leading, words) and stored[1].shape == (*leading, 1)


def parse_codec(name: str) -> Codec:
    """Return the codec called `name`; ValueError when it is none of ours."""
    if name == "plain":
        return PlainCodec()
    rotated = re.fullmatch(r"t(\d+):(\d+):(\d+)", name)
    if rotated:
        bits, width, seed = map(int, rotated.groups())
        return RotatedCodec(bits, width, seed)
    affine = re.fullmatch(r"(\d+)g(\d+)", name)
    if affine:
        bits, group_size = map(int, affine.groups())
        return AffineCodec(bits, group_size)
    msg = f"KV codec {name[:40]!r} is not one of this version: 8g64, 4g32, t3:WIDTH:SEED, ..."
    raise ValueError(msg)


@cache
def rotation(width: int, seed: int) -> np.ndarray:
    """Return an orthogonal (width, width) matrix, float32: random signs, then H (x) C.

    H is the Hadamard matrix of the largest power of two that divides the width, C the cosine
    transform (DCT-II) of what is left, 1 x 1 for a power of two.
    """
    power = width & -width
    hadamard = np.ones((1, 1))
    while len(hadamard) < power:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    mixing = np.kron(hadamard / math.sqrt(power), _cosines(width // power))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], width)
    return (signs[:, None] * mixing).astype(np.float32)


def _cosines(n: int) -> np.ndarray:
    rows, columns = np.arange(n)[:, None], np.arange(n)[None, :]
    matrix = np.cos(np.pi * (columns + 0.5) * rows / n) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


@cache
def codebook(bits: int, width: int) -> np.ndarray:
    """Return the 2^bits entries of the Lloyd-Max codebook, rising, float32.

    For the coordinates of a uniformly random vector of `width` channels and length sqrt(width),
    whose density is (1 - t^2 / width)^((width - 3) / 2).
    """
    edge = math.sqrt(width)
    grid = np.linspace(-edge, edge, 200_001)[1:-1]
    density = (1 - grid * grid / width) ** ((width - 3) / 2)
    density /= density.sum()
    count = 1 << bits
    entries = np.interp((np.arange(count) + 0.5) / count, np.cumsum(density), grid)
    for _ in range(1000):
        cells = np.searchsorted((entries[1:] + entries[:-1]) / 2, grid)
        mass = np.bincount(cells, density, count)
        moved = np.bincount(cells, density * grid, count) / np.maximum(mass, 1e-300)
        settled = np.abs(moved - entries).max() < 1e-7  # noqa: PLR2004 - far below float32
        entries = moved
        if settled:
            break
    entries = (entries - entries[::-1]) / 2  # the density is symmetric
    return entries.astype(np.float32)


def _nearest(y: mx.array, book: mx.array) -> mx.array:
    """Return the index of the nearest of the rising entries of `book`, uint32."""
    index = mx.zeros(y.shape, mx.uint32)
    for boundary in np.array((book[1:] + book[:-1]) / 2):
        index = index + (y > float(boundary)).astype(mx.uint32)
    return index


def _pack(codes: mx.array, bits: int) -> mx.array:
    """Pack codes (..., width), uint32, as MLX does: a little-endian stream in 32-bit words."""
    lanes = codes.reshape(*codes.shape[:-1], -1, CODE_GROUP)
    words: list[Any] = [mx.zeros(lanes.shape[:-1], mx.uint32) for _ in range(bits)]
    for lane in range(CODE_GROUP):
        word, shift = divmod(lane * bits, _WORD_BITS)
        words[word] = words[word] | (lanes[..., lane] << shift)
        if shift + bits > _WORD_BITS:
            words[word + 1] = words[word + 1] | (lanes[..., lane] >> (_WORD_BITS - shift))
    return mx.stack(words, axis=-1).reshape(*codes.shape[:-1], -1)


def _entries(words: mx.array, bits: int, book: mx.array) -> mx.array:
    """Return the codebook entries (..., width) of packed codes.

    They are looked up several at once, by the byte (for 3 bits by 12 bits), so that no code takes a
    number of its own on the way: with long contexts those would be as large as the result.
    """
    stream = words.view(mx.uint8)
    if bits == 3:  # noqa: PLR2004 - eight codes in three bytes
        low, middle, high = (stream[..., i::3].astype(mx.uint16) for i in range(3))
        stream = mx.stack([low | (middle & 15) << 8, middle >> 4 | high << 4], axis=-1)
    index_bits = 12 if bits == 3 else 8  # noqa: PLR2004 - as above
    index = mx.arange(1 << index_bits)[:, None] >> mx.arange(0, index_bits, bits)
    table = book[index & ((1 << bits) - 1)]
    return table[stream].reshape(*words.shape[:-1], -1)
