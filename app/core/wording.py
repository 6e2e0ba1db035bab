"""Errors of the validation library as parts of our sentences."""

from __future__ import annotations

__all__ = ["expected_words"]


def expected_words(message: str) -> str:
    """Return what pydantic says of a value as the end of `expected ...`.

    expected_words("Input should be 16, 8 or 4") == "16, 8 or 4"
    """
    words = message.removeprefix("Value error, ").removeprefix("Input should be ")
    if words == "Field required":
        return "a value: it is required"
    return words[:1].lower() + words[1:] if words[1:2].islower() else words
