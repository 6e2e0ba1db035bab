"""How modules can be stored: one module for each number format, and `Format`, one of its widths."""

from bitbudget.app.core.formats.affine import AFFINE_BITS, AFFINE_GROUP_SIZES
from bitbudget.app.core.formats.format import (
    AFFINE_FORMATS,
    ALL_FORMATS,
    FLOAT_FORMATS,
    INTEGER_FORMATS,
    KEEP,
    LOSSY_FORMATS,
    OWN_FORMATS,
    OWN_MODE_PREFIX,
    STOCK_FORMATS,
    Format,
    FormatName,
    affine,
    parse_format,
)
from bitbudget.app.core.formats.number_format import ArraySpec, Mode
from bitbudget.app.core.formats.two_level import SPAN_COLUMNS

__all__ = [
    "AFFINE_BITS",
    "AFFINE_FORMATS",
    "AFFINE_GROUP_SIZES",
    "ALL_FORMATS",
    "FLOAT_FORMATS",
    "INTEGER_FORMATS",
    "KEEP",
    "LOSSY_FORMATS",
    "OWN_FORMATS",
    "OWN_MODE_PREFIX",
    "SPAN_COLUMNS",
    "STOCK_FORMATS",
    "ArraySpec",
    "Format",
    "FormatName",
    "Mode",
    "affine",
    "parse_format",
]
