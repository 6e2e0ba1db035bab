"""Answers that a client keeps while their ETag is the same."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header
from fastapi.responses import Response
from pydantic.json_schema import SkipJsonSchema

__all__ = ["KnownTags", "tagged"]

KnownTags = Annotated[str | SkipJsonSchema[None], Header()]
"""The parameter `if_none_match` of a route: the ETags that the client has."""


def tagged(data: bytes, etag: str, if_none_match: str | None) -> Response:
    """Return JSON with its ETag, or 304 where `if_none_match` names it."""
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match is not None and _matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="application/json", headers=headers)


def _matches(header: str, etag: str) -> bool:
    """Compare weakly, as RFC 9110 section 13.1.2 asks of If-None-Match."""
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or etag in tags
