"""Sizes in bytes as people write them: MB is 10^6, MiB is 2^20; the two are never mixed."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["format_size", "parse_size"]

_UNITS: Final = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_PATTERN: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int, where: str = "budget") -> int:
    """Return whole bytes, rounded down so that a limit is never loosened.

    Raises InvalidRequestError for anything but a non-negative number with a known unit, and for a
    part of a byte.
    """
    match = _PATTERN.fullmatch(str(text))
    if match is None or match[2].upper() not in _UNITS:
        raise InvalidRequestError(
            where=where,
            found=repr(text),
            expected="a number with MB, MiB, GB, GiB or plain bytes",
            remedy="write for example 5.5GiB",
        )
    number, unit_bytes = match[1], _UNITS[match[2].upper()]
    if unit_bytes == 1 and "." in number:
        raise InvalidRequestError(
            where=where,
            found=repr(text),
            expected="whole bytes, or a unit",
            remedy=f"{number} of what? Write {number}GiB or {number}GB",
        )
    return int(Decimal(number) * unit_bytes)


def format_size(nbytes: int) -> str:
    """Return bytes in the largest binary unit that keeps the number at one or more."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"
