"""Integer codes in small groups whose scales and minima are 4-bit integers themselves.

A weight is `D * c * code - M * m`: c and m are two 4-bit integers of its group, in one byte, D and
M two bf16 numbers of the 256 columns it lies in. That takes b + 0.625 bits in groups of 16 and
b + 0.375 in groups of 32. The last span of a row whose width 256 does not divide is shorter, and
has a D and an M of its own. llama.cpp's K-quants are relatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats.grouped import codes_and_groups
from bitbudget.app.core.formats.number_format import ArraySpec, Mode

__all__ = ["SPAN_COLUMNS", "TWO_LEVEL", "TwoLevel"]

SPAN_COLUMNS: Final = 256
"""Columns that share D and M."""
_WHOLE_WORDS: Final = 32
"""Codes of any width fill whole words in multiples of this many."""


@dataclass(frozen=True, slots=True)
class TwoLevel:
    """The two-level number format."""

    mode: Mode = Mode.TWO_LEVEL
    widths: tuple[tuple[int, int], ...] = tuple(product((2, 3, 4, 5), (16, 32)))
    is_stock: bool = False

    def name(self, bits: int, group_size: int) -> str:
        """Return `two4g16`."""
        return f"{self.mode.value}{bits}g{group_size}"

    def short_name(self, bits: int, group_size: int) -> str:
        """Return `two4g16`."""
        return self.name(bits, group_size)

    def is_legal(self, in_features: int, dtype: Dtype, _group_size: int) -> bool:
        """Whether codes fill whole words and the dtype is a float that weights have."""
        return dtype.is_weight_float and in_features > 0 and in_features % _WHOLE_WORDS == 0

    def arrays(
        self, shape: tuple[int, ...], _dtype: Dtype, bits: int, group_size: int
    ) -> tuple[ArraySpec, ...]:
        """Return codes, a byte for each group (c low, m high), and D and M of each span."""
        codes, groups = codes_and_groups(shape, bits, group_size)
        spans = (*shape[:-1], -(-shape[-1] // SPAN_COLUMNS), 2)
        return codes, ArraySpec("scales", Dtype.U8, groups), ArraySpec("spans", Dtype.BF16, spans)


TWO_LEVEL: Final = TwoLevel()
