"""Around every request: an id, the host it was sent to, the log line and the metrics."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.http.logs import log_fields
from bitbudget.app.http.metrics import Metrics
from bitbudget.app.http.origin import is_cross_site
from bitbudget.app.http.problems import problem_response

__all__ = ["RequestMiddleware"]

_log: Final = logging.getLogger("bitbudget.access")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}


_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")
_WRONG_HOST: Final[JsonObject] = {
    "status": 421,
    "slug": "misdirected-request",
    "title": "Misdirected request",
    "detail": "This server does not answer to that Host; see BITBUDGET_ALLOWED_HOSTS.",
}
_REPEATED_HOST: Final[JsonObject] = {
    "status": 400,
    "slug": "bad-request",
    "title": "Bad request",
    "detail": "A request has one Host.",
}
_FORWARDED_WITHOUT_KEYS: Final[JsonObject] = {
    "status": 421,
    "slug": "misdirected-request",
    "title": "Misdirected request",
    "detail": "This server asks for no key and answers this machine only; "
    "behind a proxy set BITBUDGET_REQUIRE_KEYS=true and make a key.",
}
_CROSS_SITE: Final[JsonObject] = {
    "status": 403,
    "slug": "forbidden",
    "title": "Forbidden",
    "detail": "A page of another site sent this; open this server's own pages.",
}


class RequestMiddleware:
    """Plain ASGI, so that event streams pass through untouched."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        hosts: frozenset[str] | None,
        takes_forwarded: bool = True,
    ) -> None:
        self._takes_forwarded = takes_forwarded
        self._app = app
        self._metrics = metrics
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        token = log_fields.set({"request_id": request_id})
        exchange = _Exchange(request_id, send)
        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                response = problem_response(Request(scope), **refusal)
                await response(scope, receive, exchange.send)
            else:
                await self._app(scope, receive, exchange.send)
        finally:
            self._note(scope, exchange)
            log_fields.reset(token)

    def _refusal(self, scope: Scope, headers: Headers) -> JsonObject | None:
        """Return the problem of a request that goes no further."""
        if len(headers.getlist("host")) > 1:
            return _REPEATED_HOST
        if self._hosts is not None and _host(headers) not in self._hosts:
            return _WRONG_HOST
        if not self._takes_forwarded and any(name in headers for name in _FORWARDED):
            return _FORWARDED_WITHOUT_KEYS
        return _CROSS_SITE if is_cross_site(HTTPConnection(scope)) else None

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        route = getattr(scope.get("route"), "path_format", "unknown")
        seconds = time.monotonic() - exchange.began_at
        method = scope["method"] if route != "unknown" else "any"
        self._metrics.requests.labels(method, route, str(exchange.status)).inc()
        if not exchange.is_stream:
            self._metrics.seconds.labels(route).observe(seconds)
        fields: JsonObject = {
            "method": scope["method"],
            "path": scope["path"],
            "status": exchange.status,
            "milliseconds": round(seconds * 1000, 1),
            **scope.get("path_params", {}),
        }
        _log.info("request", extra={"fields": fields})


class _Exchange:
    """One answer on its way out."""

    def __init__(self, request_id: str, send: Send) -> None:
        self._request_id = request_id
        self._send = send
        self.began_at = time.monotonic()
        self.status = 500
        self.is_stream = False

    async def send(self, message: Message) -> None:
        """Pass a message on; the first one gets our headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            self.is_stream = headers.get("content-type", "").startswith("text/event-stream")
        await self._send(message)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _host(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    return host if host.endswith("]") else re.sub(r":\d+$", "", host)
