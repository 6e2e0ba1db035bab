"""Every number format there is, in the order in which formats are listed and offered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bitbudget.app.core.formats.affine import AFFINE
from bitbudget.app.core.formats.keep import KEEP_SOURCE
from bitbudget.app.core.formats.mxfp4 import MXFP4
from bitbudget.app.core.formats.mxfp8 import MXFP8
from bitbudget.app.core.formats.number_format import Mode, NumberFormat
from bitbudget.app.core.formats.nvfp4 import NVFP4
from bitbudget.app.core.formats.two_level import TWO_LEVEL
from bitbudget.app.core.formats.zero_point import SYMMETRIC, ZERO_POINT

__all__ = ["NUMBER_FORMATS"]

_IN_ORDER: Final[tuple[NumberFormat, ...]] = (
    AFFINE,
    MXFP4,
    NVFP4,
    MXFP8,
    TWO_LEVEL,
    ZERO_POINT,
    SYMMETRIC,
    KEEP_SOURCE,
)

NUMBER_FORMATS: Final[Mapping[Mode, NumberFormat]] = {each.mode: each for each in _IN_ORDER}
