"""Keyset pages: a cursor is the key of the last item, so pages stay true while rows are added."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel

from bitbudget.app.core.errors import NotFoundError

__all__ = ["Key", "Page", "cut_page", "decode_cursor", "encode_cursor"]

Item = TypeVar("Item")
Row = TypeVar("Row")
Key = list[str | int | float | None]


class Page(BaseModel, Generic[Item]):
    """One page of a list; pass `next_cursor` as `cursor` for the next, null ends the list."""

    items: list[Item]
    next_cursor: str | None = None


def encode_cursor(key: Key) -> str:
    """Return an opaque cursor that continues after `key`."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None, types: tuple[type, ...]) -> Key | None:
    """Return the key in `cursor`; NotFoundError unless its parts have these types."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise _unknown(cursor) from error
    if not isinstance(key, list) or len(key) != len(types):
        raise _unknown(cursor)
    if any(not _is_of(part, type_) for part, type_ in zip(key, types, strict=True)):
        raise _unknown(cursor)
    return key


def _is_of(part: object, type_: type) -> bool:
    if isinstance(part, bool):
        return False
    if isinstance(part, str):
        return type_ is str and part.isascii() and part.isprintable()
    if isinstance(part, int):
        return type_ in (int, float) and abs(part) < 2**63
    return isinstance(part, float) and type_ is float


def _unknown(cursor: str) -> NotFoundError:
    return NotFoundError(what="page of this list in this order at", name=cursor[:40])


def cut_page(
    rows: Sequence[Row], limit: int, key: Callable[[Row], Key]
) -> tuple[Sequence[Row], str | None]:
    """Return at most `limit` of the rows (one more was asked for) and the next cursor."""
    if len(rows) <= limit:
        return rows, None
    kept = rows[:limit]
    return kept, encode_cursor(key(kept[-1]))
