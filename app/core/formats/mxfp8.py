"""8-bit floats (E4M3) in blocks of 32 with a power of two (E8M0) as scale: OCP MX v1.0."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.formats.grouped import BlockFloat
from bitbudget.app.core.formats.number_format import Mode

__all__ = ["MXFP8"]

MXFP8: Final = BlockFloat(Mode.MXFP8, bits=8, group_size=32)
