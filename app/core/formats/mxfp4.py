"""4-bit floats (E2M1) in blocks of 32 with a power of two (E8M0) as scale: OCP MX v1.0."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.formats.grouped import BlockFloat
from bitbudget.app.core.formats.number_format import Mode

__all__ = ["MXFP4"]

MXFP4: Final = BlockFloat(Mode.MXFP4, bits=4, group_size=32)
