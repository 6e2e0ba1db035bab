"""Stored JSON read back as what it is, where one unreadable value must not take a page down."""

from __future__ import annotations

import logging
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

__all__ = ["read_stored"]

_LOG: Final = logging.getLogger(__name__)
Model = TypeVar("Model", bound=BaseModel)


def read_stored(kind: type[Model], value: object | bytes, where: str) -> Model | None:
    """Return `value`, plain values or JSON, as a `kind`; None, and a warning, if it is none."""
    try:
        if isinstance(value, bytes):
            return kind.model_validate_json(value)
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        _LOG.warning("%s holds no readable %s: %s: %s", where, kind.__name__, place, first["msg"])
        return None
