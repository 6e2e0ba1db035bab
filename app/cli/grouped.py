"""Groups of options that several commands share, declared once as a dataclass."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

__all__ = ["grouped"]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each keyword parameter that is a dataclass of options by the options themselves.

    The command then receives the built dataclass, and Typer sees its fields as options.
    """
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, type[Any]] = {
        p.name: p.annotation
        for p in parameters
        if isinstance(p.annotation, type) and dataclasses.is_dataclass(p.annotation)
    }
    flat = [q for p in parameters for q in (_fields(p) if p.name in groups else [p])]

    @functools.wraps(command)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            fields = {field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            values[name] = group(**fields)
        command(**values)

    call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined] # read by inspect
    call.__annotations__ = {p.name: p.annotation for p in flat}
    return call


def _fields(group: inspect.Parameter) -> list[inspect.Parameter]:
    hints = get_type_hints(group.annotation, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group.annotation)
    ]
