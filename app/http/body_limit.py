"""No request body is read beyond its limit, whatever its headers say."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BodyLimitMiddleware"]


class BodyLimitMiddleware:
    """Stops reading where the limit is; artifacts and measurements have one of their own."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_artifact_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_artifact_bytes = max_artifact_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a body that cannot grow too large."""
        if scope["type"] == "http":
            path = scope["path"]
            is_artifact = "/artifacts/" in path or path == "/v1/measurements"
            limit = self._max_artifact_bytes if is_artifact else self._max_bytes
            receive = _Counted(receive, limit).receive
        await self._app(scope, receive, send)


@dataclass(slots=True)
class _Counted:
    """A body with what is left of its limit; the error is one that the routes let through."""

    source: Receive
    left: int

    async def receive(self) -> Message:
        message = await self.source()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "The body is larger than this server takes; see BITBUDGET_MAX_BODY_BYTES.",
                {"Connection": "close"},
            )
        return message
