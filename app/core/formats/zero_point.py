"""Integer codes with a bf16 scale and an integer zero point, as Mirai's engine stores them.

A weight is `scale * (code - zero point)`. At 4 bits the zero point is a code of the group, two to a
byte along the row; at 8 bits it is 128 everywhere and not stored (`sym8`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats.grouped import codes_and_groups, fits_groups
from bitbudget.app.core.formats.number_format import ArraySpec, Mode

__all__ = ["SYMMETRIC", "ZERO_POINT", "ZeroPoint"]

_GROUP_SIZES: Final = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class ZeroPoint:
    """Codes of one width with a scale for each group and, where it is `stored`, a zero point."""

    mode: Mode
    bits: int
    stored: bool
    is_stock: bool = False

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """One width in every group size."""
        return tuple(product((self.bits,), _GROUP_SIZES))

    def name(self, bits: int, group_size: int) -> str:
        """Return `zero4g64` or `sym8g64`."""
        return f"{self.mode.value}{bits}g{group_size}"

    def short_name(self, bits: int, group_size: int) -> str:
        """Return the name."""
        return self.name(bits, group_size)

    def is_legal(self, in_features: int, dtype: Dtype, group_size: int) -> bool:
        """Whether whole groups fill the input width and the dtype is a float that weights have."""
        return fits_groups(in_features, dtype, group_size)

    def arrays(
        self, shape: tuple[int, ...], _dtype: Dtype, bits: int, group_size: int
    ) -> tuple[ArraySpec, ...]:
        """Return codes, scales and zero points, if they are stored."""
        codes, groups = codes_and_groups(shape, bits, group_size)
        scales = ArraySpec("scales", Dtype.BF16, groups)
        if not self.stored:
            return codes, scales
        pairs = (*groups[:-1], -(-groups[-1] // 2))
        return codes, scales, ArraySpec("zero_points", Dtype.U8, pairs)


ZERO_POINT: Final = ZeroPoint(Mode.ZERO_POINT, bits=4, stored=True)
SYMMETRIC: Final = ZeroPoint(Mode.SYMMETRIC, bits=8, stored=False)
