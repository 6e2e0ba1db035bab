"""What a configuration may count: no class is built of more layers than files have tensors."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.files.language_part import text_part

__all__ = ["check_counts"]

_LAYER_COUNTS: Final = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_HUGE: Final = 2**64
_MOST_EXPERTS: Final = 2**16
_LONGEST_PATTERN: Final = 2**16


def check_counts(config: JsonObject, tensors: int) -> None:
    """Refuse more layers, experts or layer kinds than `tensors` tensors can be, before building.

    Raises InvalidModelError.
    """
    for part in (config, text_part(config)):
        for name in _LAYER_COUNTS:
            count = part.get(name)
            if isinstance(count, int) and count > tensors:
                raise _too_many(name, "layers", count, f"one for each of the {tensors} tensors")
        for name, value in part.items():
            if isinstance(value, int) and "expert" in name and value > _MOST_EXPERTS:
                raise _too_many(name, "experts", value, f"{_MOST_EXPERTS}")
            if isinstance(value, (str, list)) and len(value) > max(tensors, _LONGEST_PATTERN):
                raise _too_many(name, "entries", len(value), f"{_LONGEST_PATTERN}")


def _too_many(name: str, what: str, count: int, most: str) -> InvalidModelError:
    return InvalidModelError(
        where=f"config.json: {name}"[:100],
        found=f"{count} {what}" if count < _HUGE else "a huge number",
        expected=f"at most {most}",
        remedy="use the config.json that belongs to the weights",
    )
