"""A measurement as a file that is passed on: canonical bytes, one digest, checked when it is read.

`measurement.schema.json` beside this module is its JSON Schema.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.measurement_bounds import check_measured
from bitbudget.app.core.wording import expected_words

__all__ = [
    "MAX_MEASUREMENT_BYTES",
    "FileName",
    "file_bytes",
    "file_digest",
    "read_file",
]

MAX_MEASUREMENT_BYTES: Final = 64 * 2**20
"""A larger document is refused unread; one of a 30B model takes about a megabyte."""

_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
_LONGEST_SHOWN: Final = 80
_NUL: Final = rb"\u0000"


def file_bytes(measurement: Measurement) -> bytes:
    """Return the bytes to pass on: canonical JSON, the same wherever the measurement lies.

    Where this copy was taken from is left out.
    """
    read_again = Measurement.from_json(measurement.to_json())
    return replace(read_again, origin="").to_json()


def file_digest(measurement: Measurement) -> str:
    """Return the SHA-256 of `file_bytes`, by which a measurement is verified."""
    return sha256_of(file_bytes(measurement))


def read_file(data: bytes, where: str = "measurement") -> Measurement:
    """Return the measurement that somebody passed on.

    InvalidRequestError names the first thing that is wrong: too large, compressed, no JSON, a field
    missing or of another type, not canonical (a key twice, an unknown field, spaces), a number out
    of bounds, curves that cannot be allocated on. Nothing in it is executed or looked up.
    """
    _check_size(data, where)
    try:
        found = Measurement.from_json(data)
    except ValidationError as error:
        raise _refused(where, *_first(error)) from error
    except (ValueError, KeyError, RecursionError) as error:
        raise _refused(where, str(error)[:_LONGEST_SHOWN], "a measurement") from error
    if _NUL in data:
        raise _refused(where, "NUL in a text", "printable texts")
    if found.origin:
        raise _refused(f"{where}: origin", repr(found.origin)[:_LONGEST_SHOWN], "no origin")
    if found.to_json() != data:
        raise _refused(where, _why_not_canonical(data, found), "canonical JSON")
    try:
        check_measured(found)
    except InvalidRequestError as error:
        raise _refused(
            f"{where}: {error.fields['where']}", error.fields["found"], error.fields["expected"]
        ) from error
    return found


def _check_size(data: bytes, where: str) -> None:
    if len(data) > MAX_MEASUREMENT_BYTES:
        raise _refused(where, f"{len(data)} bytes", f"at most {MAX_MEASUREMENT_BYTES}")
    for magic, name in _COMPRESSED.items():
        if data.startswith(magic):
            raise _refused(where, f"{name}-compressed bytes", "plain JSON: decompress it first")


def _first(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    shown = "" if not first["loc"] else f" {first.get('input')!r}"[:_LONGEST_SHOWN]
    return f"{place}{shown}", expected_words(first["msg"])


def _refused(where: str, found: str, expected: str) -> InvalidRequestError:
    return InvalidRequestError(
        where=where,
        found=found,
        expected=expected,
        remedy="get the file again, or ask whoever made it to export it with this version",
    )


def _why_not_canonical(data: bytes, found: Measurement) -> str:
    """Return the first difference between a document and its canonical form."""
    twice: list[str] = []

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in items]
        twice.extend(name for name in set(names) if names.count(name) > 1)
        return dict(items)

    document = json.loads(data, object_pairs_hook=pairs)
    if twice:
        return f"key {twice[0]!r} twice"[:_LONGEST_SHOWN]
    place = _difference(document, json.loads(found.to_json()), "document")
    return f"{place} otherwise" if place else "the same values in other bytes (spaces, order)"


def _difference(document: object, canonical: object, place: str) -> str:
    """Return the path of the first value that differs, or nothing."""
    if isinstance(document, dict) and isinstance(canonical, dict):
        for name in sorted(document.keys() | canonical.keys()):
            where = f"{place}.{name}"[-_LONGEST_SHOWN:]
            if name not in canonical:
                return f"unknown field {where}"
            if name not in document:
                return f"missing field {where}"
            if inner := _difference(document[name], canonical[name], where):
                return inner
        return ""
    if (
        isinstance(document, list)
        and isinstance(canonical, list)
        and len(document) == len(canonical)
    ):
        differ = (
            _difference(mine, theirs, f"{place}.{i}")
            for i, (mine, theirs) in enumerate(zip(document, canonical, strict=True))
        )
        return next(filter(None, differ), "")
    return "" if repr(document) == repr(canonical) else f"{place} written"


_NAME: Final = re.compile(
    r"measurement\.(?P<model>[0-9a-f]{16})\.(?P<effort>[a-z]+)\.(?P<encoder>[a-z]+)"
    r"\.(?P<sensitivity>[a-z]+)\.(?P<rotation>[a-z]+)\.(?P<key>[0-9a-f]{16})\.json"
)


class FileName(str):
    """The name of a measurement's file in a repository: of which weights, made how.

    `measurement.MODEL.EFFORT.ENCODER.SENSITIVITY.ROTATION.KEY.json`, MODEL and KEY being the first
    16 digits of the digest of the weights and of the measurement's key. It only finds a file: what
    counts is what is in it.
    """

    __slots__ = ()

    @classmethod
    def of(cls, measurement: Measurement) -> FileName:
        """Return the name of a measurement's file."""
        parts = (
            measurement.model.digest[:16],
            measurement.effort.value,
            measurement.encoder.value,
            measurement.sensitivity.value,
            measurement.rotation,
            measurement.key[:16],
        )
        return cls(f"measurement.{'.'.join(parts)}.json")

    def says(self, name: str) -> str:
        """Return one part: `model`, `effort`, `encoder`, `sensitivity`, `rotation` or `key`.

        Nothing for a file that is called otherwise.
        """
        found = _NAME.fullmatch(self)
        return "" if found is None else found[name]
