"""How a module is stored, and exactly how many bytes that takes.

The arrays of a stock format are those that `mlx.nn.QuantizedLinear`, `QuantizedEmbedding` and
mlx-lm's `QuantizedSwitchLinear` hold, those of our own the ones that `bitbudget.load` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats.affine import AFFINE
from bitbudget.app.core.formats.keep import KEEP_SOURCE
from bitbudget.app.core.formats.number_format import ArraySpec, Mode, NumberFormat
from bitbudget.app.core.formats.table import NUMBER_FORMATS

__all__ = [
    "AFFINE_FORMATS",
    "ALL_FORMATS",
    "FLOAT_FORMATS",
    "INTEGER_FORMATS",
    "KEEP",
    "LOSSY_FORMATS",
    "OWN_FORMATS",
    "OWN_MODE_PREFIX",
    "STOCK_FORMATS",
    "Format",
    "FormatName",
    "affine",
    "parse_format",
]


OWN_MODE_PREFIX: Final = "bitbudget.load:"
"""MLX refuses a mode that it does not know by quoting it."""


@dataclass(frozen=True, slots=True, order=True)
class Format:
    """A number format in one of its widths. `bits` and `group_size` are 0 for `keep`.

    >>> parse_format("affine4g64").data_bytes((2048, 2048), Dtype.BF16)
    2359296
    """

    mode: Mode
    bits: int = 0
    group_size: int = 0

    def __str__(self) -> str:
        return self._numbers.name(self.bits, self.group_size)

    @property
    def _numbers(self) -> NumberFormat:
        return NUMBER_FORMATS[self.mode]

    @property
    def is_stock(self) -> bool:
        """Whether stock mlx-lm loads it; else `bitbudget.load` does."""
        return self._numbers.is_stock

    @property
    def config_mode(self) -> str:
        """The `mode` in config.json: MLX's own, or one that names the loader it needs."""
        return self.mode.value if self.is_stock else f"{OWN_MODE_PREFIX}{self.mode.value}"

    @property
    def short_name(self) -> str:
        """The name for narrow columns: `4g64`, `mxfp4`, `keep`."""
        return self._numbers.short_name(self.bits, self.group_size)

    def is_legal(self, in_features: int, dtype: Dtype) -> bool:
        """Whether a matrix of this input width and source dtype can be stored in this format."""
        return self._numbers.is_legal(in_features, dtype, self.group_size)

    def arrays(self, shape: tuple[int, ...], dtype: Dtype) -> tuple[ArraySpec, ...]:
        """Return the arrays that hold a weight of `shape` (..., out, in) and source `dtype`."""
        return self._numbers.arrays(shape, dtype, self.bits, self.group_size)

    def data_bytes(self, shape: tuple[int, ...], dtype: Dtype) -> int:
        """Exact bytes of the stored arrays of a weight, without file headers."""
        return sum(array.nbytes for array in self.arrays(shape, dtype))

    def bits_per_weight(self, dtype: Dtype) -> float:
        """Stored bits per weight, scales and biases included (4-bit g64 from bf16: 4.5)."""
        width = self.group_size or 1
        return 8 * self.data_bytes((32, width), dtype) / (32 * width)


def affine(bits: int, group_size: int) -> Format:
    """Return the affine format of these bits and this group size."""
    return Format(AFFINE.mode, bits, group_size)


KEEP: Final = Format(KEEP_SOURCE.mode)
ALL_FORMATS: Final = tuple(
    Format(numbers.mode, bits, group_size)
    for numbers in NUMBER_FORMATS.values()
    for bits, group_size in numbers.widths
)
LOSSY_FORMATS: Final = tuple(format_ for format_ in ALL_FORMATS if format_ != KEEP)
"""All but `keep`."""
STOCK_FORMATS: Final = tuple(format_ for format_ in ALL_FORMATS if format_.is_stock)
"""Those that stock mlx-lm loads, `keep` among them."""
OWN_FORMATS: Final = tuple(format_ for format_ in ALL_FORMATS if not format_.is_stock)
"""Those that need `bitbudget.load`: integer codes with parameters stored in other ways."""
AFFINE_FORMATS: Final = tuple(affine(*width) for width in AFFINE.widths)
INTEGER_FORMATS: Final = (*AFFINE_FORMATS, *OWN_FORMATS)
"""Integer codes with a scale and a bias for each group, however these are stored."""
FLOAT_FORMATS: Final = tuple(
    format_ for format_ in LOSSY_FORMATS if format_ not in set(INTEGER_FORMATS)
)
"""Small floats with a shared scale: the mx and nv formats."""
_BY_NAME: Final = {str(format_): format_ for format_ in ALL_FORMATS}


def parse_format(name: str | Format) -> Format:
    """Return the format called `name` (`affine4g64`, `mxfp4`, `keep`).

    Raises InvalidRequestError when there is no such format.
    """
    if isinstance(name, Format):
        return name
    if name in _BY_NAME:
        return _BY_NAME[name]
    others = [str(format_) for format_ in (*FLOAT_FORMATS, *OWN_FORMATS, KEEP)]
    raise InvalidRequestError(
        where="format",
        found=repr(name)[:80],
        expected=f"affine{{2,3,4,5,6,8}}g{{32,64,128}}, {', '.join(others[:-1])} or {others[-1]}",
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
