"""CSV (RFC 4180) that spreadsheets show as text and never run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Final

__all__ = ["csv_line"]

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula (OWASP, CSV injection)."""


def csv_line(values: Iterable[object], *, end: str = "\n") -> str:
    """Return one line; a text that a spreadsheet would run begins with an apostrophe."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerow(map(_cell, values))
    return text.getvalue()


def _cell(value: object) -> object:
    is_formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if is_formula else value
