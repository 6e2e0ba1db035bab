"""4-bit floats (E2M1) in blocks of 16 with an 8-bit float (E4M3) as scale: NVIDIA's NVFP4."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.formats.grouped import BlockFloat
from bitbudget.app.core.formats.number_format import Mode

__all__ = ["NVFP4"]

NVFP4: Final = BlockFloat(Mode.NVFP4, bits=4, group_size=16)
