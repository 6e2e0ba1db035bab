"""Forms, read without a library."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["Form", "job_fields"]

_MAX_FIELDS = 64
_MOST_DIGITS = 18


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of the form."""
    text = (await request.body()).decode("utf-8", "replace")
    try:
        return dict(parse_qsl(text, max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise InvalidRequestError(
            where="form",
            found="too many fields",
            expected=f"at most {_MAX_FIELDS}",
            remedy="send the page's own form",
        ) from error


Form = Annotated[dict[str, str], Depends(_form)]


def job_fields(form: dict[str, str]) -> dict[str, Any]:
    """Return the fields of a JobRequest; empty ones are left out."""
    names = ("model", "budget", "device", "context", "deliver", "effort")
    given = {name: form[name].strip() for name in names if form.get(name, "").strip()}
    context = given.get("context", "")
    is_number = context.isdecimal() and len(context) <= _MOST_DIGITS
    return {**given, "context": int(context)} if is_number else dict(given)
