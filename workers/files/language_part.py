"""The language model's part of a configuration: `text_config` of a multimodal one, or the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject

__all__ = ["TEXT", "language_config", "setting", "text_part", "with_setting"]

TEXT: Final = "text_config"


def text_part(config: Mapping[str, Any]) -> JsonObject:
    """Return what `text_config` holds; {} where there is none."""
    part = config.get(TEXT)
    return part if isinstance(part, dict) else {}


def language_config(config: Mapping[str, Any]) -> JsonObject:
    """Return all settings of the language model: those of `text_config` go before the whole's.

    >>> language_config({"model_type": "gemma3", "text_config": {"vocab_size": 9}})["vocab_size"]
    9
    """
    return {**config, **text_part(config)}


def setting(config: Mapping[str, Any], *names: str) -> Any:
    """Return the first of these settings that the whole or else `text_config` states, or None."""
    stated = (part.get(name) for part in (config, text_part(config)) for name in names)
    return next((value for value in stated if value is not None), None)


def with_setting(config: JsonObject, name: str, *, value: Any) -> JsonObject:
    """Return `config` with a setting changed, in `text_config` too where there is one."""
    changed = {**config, name: value}
    if text_part(config):
        changed[TEXT] = {**text_part(config), name: value}
    return changed
