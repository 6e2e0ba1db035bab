"""Stored JSON read back as what it is, where one unreadable value must not take a page down."""

from __future__ import annotations

import json
import logging
from typing import Any, Final, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

__all__ = ["decoded", "read_adapted", "read_stored"]

_LOG: Final = logging.getLogger(__name__)
Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")


def decoded(text: str) -> Any:
    """Return the value of a JSON text; the text itself, which no reader takes, if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def read_stored(kind: type[Model], value: object | bytes, where: str) -> Model | None:
    """Return `value`, plain values or JSON, as a `kind`; None, and a warning, if it is none."""
    try:
        if isinstance(value, bytes):
            return kind.model_validate_json(value)
        return kind.model_validate(value)
    except ValidationError as error:
        _warn(error, kind.__name__, where)
        return None


def read_adapted(adapter: TypeAdapter[Value], value: object, what: str, where: str) -> Value | None:
    """Return plain values as what `adapter` reads; None, and a warning, if they are no `what`."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        _warn(error, what, where)
        return None


def _warn(error: ValidationError, what: str, where: str) -> None:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    _LOG.warning("%s holds no readable %s: %s: %s", where, what, place, first["msg"])
