"""Sizes in bytes as people write them: MB is 10^6, MiB is 2^20; the two are never mixed."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["MAX_SIZE", "format_size", "parse_size"]

MAX_SIZE: Final = 2**60
"""No size is larger: what a knapsack counts in 64 bits."""

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
_LONGEST: Final = 64
_PATTERN: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int, where: str = "budget") -> int:
    """Return whole bytes, rounded down so that a limit is never loosened.

    Raises InvalidRequestError for anything but a non-negative number with a known unit, and for a
    part of a byte.
    """
    match = _PATTERN.fullmatch(_as_text(text))
    if match is None or match[2].upper() not in _UNITS:
        raise InvalidRequestError(
            where=where,
            found=repr(text)[:80] if isinstance(text, str) else "a number",
            expected="a number with MB, MiB, GB, GiB or plain bytes",
            remedy="write for example 5.5GiB",
        )
    number, unit_bytes = match[1], _UNITS[match[2].upper()]
    if unit_bytes == 1 and "." in number:
        raise InvalidRequestError(
            where=where,
            found=repr(text)[:80],
            expected="whole bytes, or a unit",
            remedy=f"{number} of what? Write {number}GiB or {number}GB",
        )
    nbytes = int(Decimal(number) * unit_bytes)
    if nbytes > MAX_SIZE:
        raise InvalidRequestError(
            where=where,
            found=_as_text(text)[:40],
            expected=f"at most {MAX_SIZE} bytes",
            remedy="write for example 5.5GiB",
        )
    return nbytes


def _as_text(text: str | int) -> str:
    """Return the digits of a number; one of more digits than any size has is no size."""
    if isinstance(text, int) and abs(text) > MAX_SIZE:
        return f"{MAX_SIZE + 1}"
    return str(text)[:_LONGEST]


def format_size(nbytes: int) -> str:
    """Return bytes in the largest binary unit that keeps the number at one or more."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"
