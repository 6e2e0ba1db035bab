"""What every message of the contract shares: numbers JSON keeps exact, and no unknown fields."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from bitbudget.app.core.requests import Number

__all__ = ["Amount", "Attempt", "Integer", "Message"]

_LARGEST_INTEGER: Final = 2**53
"""JSON numbers are exact up to here."""

Amount = Annotated[int, Field(ge=0, le=_LARGEST_INTEGER), Number]
Attempt = Annotated[int, Field(ge=1), Number]
Integer = Annotated[int, Number]


class Message(BaseModel):
    """A message of the contract: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")
