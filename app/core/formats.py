"""How a module can be stored, and exactly how many bytes that takes.

The arrays of a format are those that `mlx.nn.QuantizedLinear`, `QuantizedEmbedding` and mlx-lm's
`QuantizedSwitchLinear` hold: codes packed in uint32 along the last axis, one scale per group and,
for `affine`, one bias per group in the dtype of the source weights (mlx `mx.quantize`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError

__all__ = [
    "AFFINE_BITS",
    "AFFINE_FORMATS",
    "AFFINE_GROUP_SIZES",
    "ALL_FORMATS",
    "FLOAT_FORMATS",
    "KEEP",
    "ArraySpec",
    "Format",
    "FormatName",
    "Mode",
    "parse_format",
]

AFFINE_BITS: Final = (2, 3, 4, 5, 6, 8)
AFFINE_GROUP_SIZES: Final = (32, 64, 128)


class Mode(StrEnum):
    """The quantization mode, as mlx names it; `keep` stores the checkpoint's own dtype."""

    AFFINE = "affine"
    MXFP4 = "mxfp4"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One stored array: `suffix` is appended to the module's path with a dot."""

    suffix: str
    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without any header."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, order=True)
class Format:
    """A storage format. `bits` and `group_size` are 0 for `keep`."""

    mode: Mode
    bits: int = 0
    group_size: int = 0

    def __str__(self) -> str:
        if self.mode is Mode.AFFINE:
            return f"affine{self.bits}g{self.group_size}"
        return self.mode.value

    def is_legal(self, in_features: int, dtype: Dtype) -> bool:
        """Whether mlx can store a matrix of this input width and source dtype in this format."""
        if self.mode is Mode.KEEP:
            return True
        return dtype.is_weight_float and in_features > 0 and in_features % self.group_size == 0

    def arrays(self, shape: tuple[int, ...], dtype: Dtype) -> tuple[ArraySpec, ...]:
        """Return the arrays that hold a weight of `shape` (..., out, in) and source `dtype`."""
        if self.mode is Mode.KEEP:
            return (ArraySpec("weight", dtype, shape),)
        *lead, width = shape
        codes = ArraySpec("weight", Dtype.U32, (*lead, width * self.bits // 32))
        groups = (*lead, width // self.group_size)
        if self.mode is Mode.AFFINE:
            return codes, ArraySpec("scales", dtype, groups), ArraySpec("biases", dtype, groups)
        return codes, ArraySpec("scales", Dtype.U8, groups)

    def data_bytes(self, shape: tuple[int, ...], dtype: Dtype) -> int:
        """Exact bytes of the stored arrays of a weight, without file headers."""
        return sum(array.nbytes for array in self.arrays(shape, dtype))

    def bits_per_weight(self, dtype: Dtype) -> float:
        """Stored bits per weight, scales and biases included (4-bit g64 from bf16: 4.5)."""
        width = self.group_size or 1
        return 8 * self.data_bytes((32, width), dtype) / (32 * width)


KEEP: Final = Format(Mode.KEEP)
AFFINE_FORMATS: Final = tuple(
    Format(Mode.AFFINE, bits, group) for bits in AFFINE_BITS for group in AFFINE_GROUP_SIZES
)
FLOAT_FORMATS: Final = (
    Format(Mode.MXFP4, 4, 32),
    Format(Mode.NVFP4, 4, 16),
    Format(Mode.MXFP8, 8, 32),
)
ALL_FORMATS: Final = (*AFFINE_FORMATS, *FLOAT_FORMATS, KEEP)
_BY_NAME: Final = {str(format_): format_ for format_ in ALL_FORMATS}


def parse_format(name: str | Format) -> Format:
    """Return the format called `name` (`affine4g64`, `mxfp4`, `keep`).

    Raises InvalidRequestError when there is no such format.
    """
    if isinstance(name, Format):
        return name
    if name in _BY_NAME:
        return _BY_NAME[name]
    raise InvalidRequestError(
        where="format",
        found=repr(name)[:80],
        expected="affine{2,3,4,5,6,8}g{32,64,128}, mxfp4, mxfp8, nvfp4 or keep",
        remedy="write for example affine4g64",
    )


def _validate(value: object) -> Format:
    if not isinstance(value, (str, Format)):
        msg = f"a format is a string, found {value!r}"[:120]
        raise ValueError(msg)  # noqa: TRY004 - pydantic reports ValueError with its place
    return parse_format(value)


FormatName = Annotated[
    Format,
    BeforeValidator(_validate),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "enum": sorted(_BY_NAME)}),
]
"""A Format that pydantic reads and writes by its name."""
