"""Which text a model is measured on: its own, written in one of two ways, or the user's."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["NO_TEXT", "OwnText", "text_words"]

NO_TEXT = "none"
"""Stands where weights alone are measured."""


class OwnText(StrEnum):
    """How a model writes the text that it is measured on.

    `SELF` is what it writes from its beginning token. `CHAT` is by turns what it answers to bundled
    prompts, which its chat template wraps, and what it writes from its beginning token.
    """

    SELF = "self"
    CHAT = "chat"


def text_words(text: str) -> str:
    """Return in words what `Measurement.text` says.

    >>> text_words("self")
    "the model's own, written from its beginning token"
    """
    words = {
        NO_TEXT: "none: the weights alone",
        OwnText.SELF: "the model's own, written from its beginning token",
        OwnText.CHAT: "the model's own: answers to bundled prompts, and what it writes by itself",
    }
    return words.get(text, f"the user's, SHA-256 {text[:12]}")
