"""The affine number format: integer codes with a scale and a bias for each group.

A weight is `scale * code + bias`. Codes are packed in uint32 along the input axis; scales and
biases have the dtype of the source weights (mlx `mx.quantize`, mode `affine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats.grouped import codes_and_groups, fits_groups
from bitbudget.app.core.formats.number_format import ArraySpec, Mode

__all__ = ["AFFINE", "AFFINE_BITS", "AFFINE_GROUP_SIZES", "Affine"]

AFFINE_BITS: Final = (2, 3, 4, 5, 6, 8)
AFFINE_GROUP_SIZES: Final = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Affine:
    """The affine number format."""

    mode: Mode = Mode.AFFINE
    widths: tuple[tuple[int, int], ...] = tuple(product(AFFINE_BITS, AFFINE_GROUP_SIZES))
    is_stock: bool = True

    def name(self, bits: int, group_size: int) -> str:
        """Return `affine4g64`."""
        return f"{self.mode.value}{bits}g{group_size}"

    def short_name(self, bits: int, group_size: int) -> str:
        """Return `4g64`."""
        return f"{bits}g{group_size}"

    def is_legal(self, in_features: int, dtype: Dtype, group_size: int) -> bool:
        """Whether whole groups fill the input width and the dtype is one that MLX quantizes."""
        return fits_groups(in_features, dtype, group_size)

    def arrays(
        self, shape: tuple[int, ...], dtype: Dtype, bits: int, group_size: int
    ) -> tuple[ArraySpec, ...]:
        """Return codes, scales and biases."""
        codes, groups = codes_and_groups(shape, bits, group_size)
        return codes, ArraySpec("scales", dtype, groups), ArraySpec("biases", dtype, groups)


AFFINE: Final = Affine()
