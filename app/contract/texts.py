"""One prompt continued by an original and by a checkpoint made from it, side by side."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from bitbudget.app.contract.messages import Amount, Flag, Quantity, Report, Text
from bitbudget.app.core.requests import Number

__all__ = ["LONGEST_PROMPT", "MOST_TOKENS", "Prompt", "TextComparison", "Tokens", "WrittenText"]

LONGEST_PROMPT: Final = 4000
MOST_TOKENS: Final = 256

Prompt = Annotated[
    str, StringConstraints(min_length=1, max_length=LONGEST_PROMPT, pattern=r"^[^\x00]*$")
]
"""What both continue, in characters."""
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS), Number]
"""How many tokens each writes at most."""


class WrittenText(Report):
    """What one model wrote, how fast, and in how much memory.

    `tokens_per_second` is of decoding, null where fewer than two tokens were written. Predicted are
    the speed that allocation counts on for the bytes that a token reads, and the memory of weights,
    KV cache and activations of the prompt.
    """

    text: Text
    tokens: Amount
    seconds_to_first_token: Quantity
    tokens_per_second: Quantity | None
    predicted_tokens_per_second: Quantity
    weight_bytes: Amount
    peak_memory_bytes: Amount
    predicted_memory_bytes: Amount


class TextComparison(Report):
    """Both texts; `original` is null where it does not fit in memory, and `left_out` says so.

    `same_tokens` counts those before the first that differs; `on_gpu` and the bandwidth measured
    just before are what predicted speeds rest on.
    """

    prompt: Prompt
    prompt_tokens: Amount
    result: WrittenText
    original: WrittenText | None
    left_out: Text = ""
    same_tokens: Amount
    bandwidth_bytes_per_second: Quantity
    on_gpu: Flag
