"""What every message of the contract shares: bounded numbers and text, and no unknown fields.

A value that passes these types can be stored by SQLite and PostgreSQL, written as JSON and read
back unchanged: numbers are finite and exact, text holds neither NUL nor lone surrogates.
"""

from __future__ import annotations

import json
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from bitbudget.app.core.requests import Number

__all__ = [
    "MOST_ENTRIES",
    "Amount",
    "Attempt",
    "Flag",
    "Integer",
    "Line",
    "Message",
    "Nats",
    "Notes",
    "Path",
    "Quantity",
    "Real",
    "Report",
    "Share",
    "Text",
    "is_none",
    "storable_text",
]

MOST_ENTRIES: Final = 4096
"""The most entries of a list or a dictionary in a report, unless it says otherwise."""

_LARGEST_INTEGER: Final = 2**53
"""JSON numbers are exact up to here."""
_LARGEST_FLOAT: Final = 1e300
_LARGEST_NATS: Final = 1e30
_STORABLE: Final = r"^[^\x00]*$"
"""PostgreSQL stores every character but NUL; pydantic itself refuses lone surrogates."""


def _shown(text: str) -> str:
    """Return text that does nothing but be read: no escape sequence reaches a terminal."""
    return storable_text(text)


Amount = Annotated[int, Field(ge=0, le=_LARGEST_INTEGER), Number]
"""A count or a number of bytes."""
Attempt = Annotated[int, Field(ge=1, le=2**31 - 1), Number]
Integer = Annotated[int, Field(ge=-_LARGEST_INTEGER, le=_LARGEST_INTEGER), Number]
Real = Annotated[float, Field(ge=-_LARGEST_FLOAT, le=_LARGEST_FLOAT, allow_inf_nan=False), Number]
"""Any finite number."""
Quantity = Annotated[float, Field(ge=0, le=_LARGEST_FLOAT, allow_inf_nan=False), Number]
"""A number that cannot be negative: seconds, tokens per second, a ratio."""
Nats = Annotated[float, Field(ge=-_LARGEST_NATS, le=_LARGEST_NATS, allow_inf_nan=False), Number]
"""A KL in nats per token; rounding may leave one of zero a little below it."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Number]
Flag = StrictBool
Line = Annotated[str, StringConstraints(max_length=512, pattern=_STORABLE), AfterValidator(_shown)]
"""A name or a short description."""
Path = Annotated[str, StringConstraints(max_length=8192, pattern=_STORABLE)]
Text = Annotated[str, StringConstraints(max_length=8192, pattern=_STORABLE), AfterValidator(_shown)]
"""A sentence or a paragraph."""


class Message(BaseModel):
    """A message of the contract: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


def storable_text(text: str, length: int = 8192) -> str:
    """Return `text` as `Text` takes it: control characters and surrogates replaced, cut short.

    What is cut is the middle: the beginning says what it is about, the end what to do.
    """
    clean = "".join(
        character if character.isprintable() or character in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
    if len(clean) <= length:
        return clean
    tail = length // 2
    return f"{clean[: length - tail - 3]}...{clean[-tail:]}"


class Report(Message):
    """A result that does not change any more."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> bytes:
        """Return the file that is stored: sorted keys, one value a line, a final line break."""
        document = self.model_dump(mode="json")
        return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


Notes = Annotated[tuple[Text, ...], Field(max_length=MOST_ENTRIES)]


def is_none(value: object) -> bool:
    """Whether a field that may be absent is left out."""
    return value is None
