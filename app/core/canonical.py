"""Canonical JSON: one value, one sequence of bytes, one digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["JsonObject", "canonical_json", "sha256_of"]

JsonObject = dict[str, Any]
"""A JSON object as it is read or written: a model's configuration, a page's twin, a document."""


def canonical_json(value: object) -> bytes:
    """Return UTF-8 JSON with sorted keys and no spaces; NaN and infinity are refused (ValueError).

    Floats are written as Python's shortest round-trip repr, so the bytes depend on the value only.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_of(data: bytes) -> str:
    """Return the lower-case hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()
