"""The one place where errors become responses: RFC 9457 `application/problem+json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import sqlalchemy.exc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import NO_ROOM, BitbudgetError
from bitbudget.app.http.errors import UnavailableError

__all__ = ["ProblemDetails", "Responses", "install", "problem_response", "problems"]

MEDIA_TYPE: Final = "application/problem+json"
_MOST_SHOWN: Final = 1000
_MOST_NAME: Final = 100
_MOST_ERRORS: Final = 100
Responses = dict[int | str, JsonObject]
"""What FastAPI takes as the documented responses of an operation."""
_log: Final = logging.getLogger(__name__)


class ProblemDetails(BaseModel):
    """What went wrong (RFC 9457); further members depend on the type."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Such as urn:bitbudget:problem:infeasible-budget.")
    title: str
    status: int
    detail: str
    instance: str
    minimum_bytes: int | None = Field(
        None, description="Of infeasible-budget: the smallest feasible size."
    )
    errors: list[JsonObject] | None = Field(
        None, description="Of invalid-request: each place (`loc`) and what is wrong (`msg`)."
    )


def problems(*statuses: int) -> Responses:
    """Return the OpenAPI responses of an operation that may answer these problems."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def problem_response(
    request: Request,
    *,
    status: int,
    slug: str,
    title: str,
    detail: str,
    fields: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem about this request."""
    body = {
        **(fields or {}),
        "type": f"urn:bitbudget:problem:{slug}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
    }
    text = json.dumps(body, default=_shown)  # ASCII: a lone surrogate has no bytes of its own
    return Response(text, status, headers, media_type=MEDIA_TYPE)


def _shown(value: object) -> str:
    return str(value)[:_MOST_SHOWN]


def install(app: FastAPI, *, missing_page: Callable[[str], Response]) -> None:
    """Answer every error of `app` with a problem.

    `missing_page` is what a browser is shown at an address outside the API that leads nowhere.
    """

    async def _http(request: Request, error: Exception) -> Response:
        missing = isinstance(error, HTTPException) and error.status_code == HTTPStatus.NOT_FOUND
        wants_page = "text/html" in request.headers.get("Accept", "")
        if missing and wants_page and not request.url.path.startswith("/v1/"):
            return missing_page(request.url.path)
        return _http_problem(request, error)

    app.add_exception_handler(BitbudgetError, _bitbudget)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(sqlalchemy.exc.OperationalError, _database)
    app.add_exception_handler(sqlalchemy.exc.InterfaceError, _database)
    app.add_exception_handler(sqlalchemy.exc.TimeoutError, _database)
    app.add_exception_handler(OSError, _disk)
    app.add_exception_handler(Exception, _unexpected)


async def _bitbudget(request: Request, error: Exception) -> Response:
    if not isinstance(error, BitbudgetError):
        raise error
    return problem_response(
        request,
        status=error.status,
        slug=error.slug(),
        title=error.title(),
        detail=str(error),
        fields=error.fields,
        headers=getattr(error, "headers", None),
    )


async def _validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [
        {
            "loc": [part if isinstance(part, int) else part[:_MOST_NAME] for part in entry["loc"]],
            "msg": entry["msg"][:_MOST_SHOWN],
            "type": entry["type"],
        }
        for entry in error.errors()[:_MOST_ERRORS]
    ]
    first = errors[0] if errors else {"loc": ["request"], "msg": "cannot be read"}
    place = ".".join(str(part) for part in first["loc"])
    return problem_response(
        request,
        status=422,
        slug="invalid-request",
        title="Invalid request",
        detail=f"{place}: {first['msg']}"[:_MOST_SHOWN],
        fields={"errors": errors},
    )


def _http_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    phrase = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem_response(
        request,
        status=error.status_code,
        slug=phrase.lower().replace(" ", "-"),
        title=phrase,
        detail=str(error.detail),
        headers=headers,
    )


def _allowed(request: Request) -> list[str]:
    """Every method of this path: the router itself names those of the first route only."""
    methods = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    return [method for method in methods if _has_route(request, method)]


def _has_route(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _database(request: Request, error: Exception) -> Response:
    _log.warning("database unavailable: %s", type(error).__name__, exc_info=error)
    return await _bitbudget(request, UnavailableError(what="database"))


async def _disk(request: Request, error: Exception) -> Response:
    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        return await _unexpected(request, error)
    _log.error("disk full: %s", error)
    return await _bitbudget(request, UnavailableError(what="disk, which is full,"))


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("unexpected error", exc_info=error)
    return problem_response(
        request,
        status=500,
        slug="internal",
        title="Internal error",
        detail="The server met an error it did not expect; its log has this request's id.",
    )
