"""What number formats with one scale for each group of weights have in common."""

from __future__ import annotations

from dataclasses import dataclass

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats.number_format import ArraySpec, Mode

__all__ = ["BlockFloat", "codes_and_groups", "fits_groups"]

_WORD_BITS = 32


def fits_groups(in_features: int, dtype: Dtype, group_size: int) -> bool:
    """Whether whole groups fill the input width and the dtype is one that MLX quantizes."""
    return dtype.is_weight_float and in_features > 0 and in_features % group_size == 0


def codes_and_groups(
    shape: tuple[int, ...], bits: int, group_size: int
) -> tuple[ArraySpec, tuple[int, ...]]:
    """Return the codes of a weight (..., in), packed in uint32, and the shape of its groups."""
    *lead, width = shape
    codes = ArraySpec("weight", Dtype.U32, (*lead, width * bits // _WORD_BITS))
    return codes, (*lead, width // group_size)


@dataclass(frozen=True, slots=True)
class BlockFloat:
    """Small floats with one 8-bit scale for each block of `group_size` weights, in one width.

    >>> BlockFloat(Mode.MXFP4, bits=4, group_size=32).widths
    ((4, 32),)
    """

    mode: Mode
    bits: int
    group_size: int
    is_stock: bool = True

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """The one width."""
        return ((self.bits, self.group_size),)

    def name(self, _bits: int, _group_size: int) -> str:
        """Return the mode: there is one width."""
        return self.mode.value

    def short_name(self, _bits: int, _group_size: int) -> str:
        """Return the mode: there is one width."""
        return self.mode.value

    def is_legal(self, in_features: int, dtype: Dtype, group_size: int) -> bool:
        """Whether whole blocks fill the input width and the dtype is one that MLX quantizes."""
        return fits_groups(in_features, dtype, group_size)

    def arrays(
        self, shape: tuple[int, ...], _dtype: Dtype, bits: int, group_size: int
    ) -> tuple[ArraySpec, ...]:
        """Return codes and 8-bit scales."""
        codes, groups = codes_and_groups(shape, bits, group_size)
        return codes, ArraySpec("scales", Dtype.U8, groups)
