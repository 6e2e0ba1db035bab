"""JSON that somebody else wrote, read in memory that its length bounds.

Parsers build a tree of every value, and validators keep an error for every wrong one, each with the
value it was given: 0.7 MB of `{}` became 1.4 GB. So values are counted before they are parsed, and
reading ends at the first wrong item of a list or a dictionary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, Generic, TypeVar, cast

from pydantic import TypeAdapter
from pydantic_core import CoreSchema, SchemaValidator

__all__ = ["MOST_MEMBERS", "Untrusted"]

Value = TypeVar("Value")

_MOST_CONTAINERS: Final = 1 << 19
_MOST_VALUES: Final = 1 << 21
MOST_MEMBERS: Final = 50_000
"""The most members of one object: more modules than any model has."""
_SEQUENCES: Final = ("list", "tuple", "set", "frozenset", "dict")


class Untrusted(Generic[Value]):
    """Reads documents of one type.

    Untrusted(Measurement).read(data)
    """

    def __init__(self, kind: type[Value]) -> None:
        schema = _ending_at_first_error(TypeAdapter(kind).core_schema)
        self._validator: Final = SchemaValidator(cast("CoreSchema", schema), _use_prebuilt=False)

    def read(self, data: bytes) -> Value:
        """Return the value; ValueError (ValidationError is one) or RecursionError if it is none."""
        _check_counts(data)
        document = json.loads(data, object_hook=_checked)
        value: Value = self._validator.validate_python(document)
        return value


def _ending_at_first_error(schema: object) -> object:
    if isinstance(schema, Mapping):
        changed = {name: _ending_at_first_error(part) for name, part in schema.items()}
        if schema.get("type") in _SEQUENCES:
            changed["fail_fast"] = True
        return changed
    if isinstance(schema, (list, tuple)):
        return type(schema)(map(_ending_at_first_error, schema))
    return schema


def _check_counts(data: bytes) -> None:
    containers = data.count(b"[") + data.count(b"{")
    if containers > _MOST_CONTAINERS:
        msg = f"{containers} lists and objects, more than {_MOST_CONTAINERS}"
        raise ValueError(msg)
    values = containers + data.count(b",")
    if values > _MOST_VALUES:
        msg = f"{values} values, more than {_MOST_VALUES}"
        raise ValueError(msg)


def _checked(members: dict[str, object]) -> dict[str, object]:
    if len(members) > MOST_MEMBERS:
        msg = f"an object of {len(members)} members, more than {MOST_MEMBERS}"
        raise ValueError(msg)
    return members
