"""Formats in which a module is coded whole, and what they say of those between them.

Coded rows of a sample leave out how rows make up for each other, and differ from the rows that were
not drawn. Both change a curve by a factor that hardly depends on the format: it is found in two
formats, and interpolated in the number of bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bitbudget.app.core.formats import AFFINE_FORMATS, INTEGER_FORMATS, Format

__all__ = ["Gain", "anchor_formats", "between_anchors"]

_BITS: Final = (3, 6)
_GROUP: Final = 64


@dataclass(frozen=True, slots=True)
class Gain:
    """Factors on the KL and the squared error of a format."""

    kl: float = 1.0
    squared: float = 1.0

    @property
    def logarithm(self) -> float:
        """The larger of both logarithms, without its sign."""
        return float(max(abs(np.log(self.kl)), abs(np.log(self.squared))))


def anchor_formats(formats: Sequence[Format]) -> tuple[Format, ...]:
    """Return the affine formats nearest to 3 and to 6 bits in groups of 64: one, two or none."""
    affine = [format_ for format_ in formats if format_ in AFFINE_FORMATS]

    def distance(format_: Format, bits: int) -> tuple[int, float]:
        return abs(format_.bits - bits), abs(math.log2(format_.group_size / _GROUP))

    nearest = [min(affine, key=lambda f, b=bits: distance(f, b)) for bits in _BITS if affine]  # type: ignore[misc]
    return tuple(dict.fromkeys(nearest))


def between_anchors(formats: Sequence[Format], known: Mapping[Format, Gain]) -> dict[Format, Gain]:
    """Return the gain of each integer format: logarithms linear in bits, constant beyond the ends.

    Args:
        formats: Of any mode; floats get none.
        known: The gains of `anchor_formats`, empty where there are none.
    """
    if not known:
        return {}
    ends = sorted(known, key=lambda format_: format_.bits)
    bits = [format_.bits for format_ in ends]
    kl = [math.log(known[format_].kl) for format_ in ends]
    squared = [math.log(known[format_].squared) for format_ in ends]
    return {
        format_: Gain(
            math.exp(np.interp(format_.bits, bits, kl)),
            math.exp(np.interp(format_.bits, bits, squared)),
        )
        for format_ in formats
        if format_ in INTEGER_FORMATS
    }
