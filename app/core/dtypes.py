"""Element types, named as the safetensors format names them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["Dtype"]


class Dtype(StrEnum):
    """A safetensors element type."""

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    F8_E4M3 = "F8_E4M3"
    F8_E5M2 = "F8_E5M2"
    F8_E8M0 = "F8_E8M0"
    I64 = "I64"
    I32 = "I32"
    I16 = "I16"
    I8 = "I8"
    U64 = "U64"
    U32 = "U32"
    U16 = "U16"
    U8 = "U8"
    BOOL = "BOOL"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return _ITEM_BYTES[self]

    @property
    def is_weight_float(self) -> bool:
        """Whether a module stored in this type can be quantized directly by MLX."""
        return self in (Dtype.F32, Dtype.F16, Dtype.BF16)


_ITEM_BYTES: Final = {
    dtype: 1 if dtype is Dtype.BOOL else int(dtype.value.split("_")[0].lstrip("BFIU")) // 8
    for dtype in Dtype
}
