"""Query parameters that several operations take."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

__all__ = ["Cursor", "Limit", "storable"]

Limit = Annotated[int, Query(ge=1, le=200, description="Items per page.")]
Cursor = Annotated[
    Annotated[str, Field(max_length=4096)] | SkipJsonSchema[None],
    Query(description="`next_cursor` of the page before."),
]


def storable(text: str | None) -> str | None:
    """Return text that PostgreSQL takes as a value: NUL, which nothing stored has, replaced."""
    return None if text is None else text.replace("\x00", "\ufffd")
