"""What a number format is: how weights are written down, and in which arrays.

A number format (MLX calls it a mode) comes in one or more widths and group sizes. Each of them is
a `Format`, which is what a module is stored in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from bitbudget.app.core.dtypes import Dtype

__all__ = ["ArraySpec", "Mode", "NumberFormat"]


class Mode(StrEnum):
    """The quantization mode, as MLX names it where it has it; `keep` is the source's own dtype."""

    AFFINE = "affine"
    MXFP4 = "mxfp4"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"
    TWO_LEVEL = "two"
    ZERO_POINT = "zero"
    SYMMETRIC = "sym"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One stored array: `suffix` is appended to the module's path with a dot.

    >>> ArraySpec("scales", Dtype.BF16, (2048, 32)).nbytes
    131072
    """

    suffix: str
    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without any header."""
        return math.prod(self.shape) * self.dtype.itemsize


class NumberFormat(Protocol):
    """How weights are written in one mode; implemented once for each, in a module of its own."""

    @property
    def mode(self) -> Mode:
        """The name in MLX and in manifests."""
        ...

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """The bits and group sizes that exist, smallest first."""
        ...

    @property
    def is_stock(self) -> bool:
        """Whether stock mlx-lm loads it; else `bitbudget.load` does."""
        ...

    def name(self, bits: int, group_size: int) -> str:
        """Return the name of a width, `affine4g64`."""
        ...

    def short_name(self, bits: int, group_size: int) -> str:
        """Return the name for narrow columns, `4g64`."""
        ...

    def is_legal(self, in_features: int, dtype: Dtype, group_size: int) -> bool:
        """Whether a matrix of this input width and source dtype can be stored."""
        ...

    def arrays(
        self, shape: tuple[int, ...], dtype: Dtype, bits: int, group_size: int
    ) -> tuple[ArraySpec, ...]:
        """Return the arrays that hold a weight of `shape` (..., out, in) and source `dtype`."""
        ...
