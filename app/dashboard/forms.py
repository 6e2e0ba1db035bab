"""Forms, read without a library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from pydantic import TypeAdapter, ValidationError

from bitbudget.app.contract.followups import CompareText, FollowupRequest, Publish
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.core.wording import expected_words
from bitbudget.app.jobs.labels import LabelChange

__all__ = ["FORM_FIELDS", "Form", "followup_of", "form_of", "job_fields", "labels_of"]

_MAX_FIELDS = 64
_FOLLOWUP: Final[TypeAdapter[CompareText | Publish]] = TypeAdapter(FollowupRequest)
_LABELS: Final = TypeAdapter(LabelChange)
Read = TypeVar("Read")
_MOST_DIGITS = 18
_MINUTES: Final = re.compile(r"\d{1,6}(\.\d{1,3})?")
_TEXTS = (
    "model",
    "budget",
    "device",
    "deliver",
    "effort",
    "encoder",
    "sensitivity",
    "rotation",
    "recover",
    "runtime",
    "measurement",
)
_NUMBERS = ("context", "kv_bits")
_SWITCHES = ("joint_kv", "min_safe")
FORM_FIELDS: Final = (*_TEXTS, *_NUMBERS, *_SWITCHES, "max_minutes", "formats", "tags")
"""What the form of a new job can hold."""


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


def job_fields(form: dict[str, str]) -> JsonObject:
    """Return the fields of a JobSubmission; empty ones are left out."""
    given: JsonObject = {name: form[name].strip() for name in _TEXTS if form.get(name, "").strip()}
    for name in _NUMBERS:
        text = form.get(name, "").strip()
        if text:
            given[name] = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else text
    minutes = form.get("max_minutes", "").strip()
    if minutes:
        given["max_minutes"] = float(minutes) if _MINUTES.fullmatch(minutes) else minutes
    given |= {name: True for name in _SWITCHES if form.get(name)}
    formats = [name.strip() for name in form.get("formats", "").split(",") if name.strip()]
    tags = _tags(form)
    return given | ({"formats": formats} if formats else {}) | ({"tags": tags} if tags else {})


def _tags(form: dict[str, str]) -> list[str]:
    return form.get("tags", "").replace(",", " ").split()


def labels_of(form: dict[str, str]) -> LabelChange:
    """Return the tags and the note of a job's page; InvalidRequestError names what is wrong."""
    note = form.get("note", "").replace("\r\n", "\n").strip()
    return _read(_LABELS, {"tags": _tags(form), "note": note})


def followup_of(form: dict[str, str]) -> CompareText | Publish:
    """Return what is asked of a checkpoint; InvalidRequestError names what is wrong."""
    given: JsonObject = dict(form)
    if "tokens" in form:
        given["tokens"] = int(form["tokens"]) if form["tokens"].isdecimal() else form["tokens"]
    if form.get("kind") == "publish":
        given["private"] = "private" in form
    return _read(_FOLLOWUP, given)


def _read(kind: TypeAdapter[Read], given: JsonObject) -> Read:
    try:
        return kind.validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequestError(
            where=".".join(map(str, first["loc"])) or "form",
            found=repr(first["input"])[:80],
            expected=expected_words(first["msg"]),
            remedy="correct it and send the form again",
        ) from error


def form_of(request: JobRequest, tags: Sequence[str] = ()) -> dict[str, str]:
    """Return the fields of the form that would send this request with these tags again."""
    values = request.model_dump(mode="json", exclude_none=True)
    form = {name: str(values[name]) for name in (*_TEXTS, *_NUMBERS) if name in values}
    if "max_minutes" in values:
        form["max_minutes"] = f"{values['max_minutes']:g}"
    form["tags"] = " ".join(tags)
    form |= {name: "on" for name in _SWITCHES if values[name]}
    return form | ({"formats": ",".join(values["formats"])} if "formats" in values else {})
