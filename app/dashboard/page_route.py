"""What routes of pages share: errors as pages, signing in, addresses on this server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response, status
from fastapi.routing import APIRoute

from bitbudget.app.auth.dependencies import TOKEN_COOKIE
from bitbudget.app.core.errors import BitbudgetError, NotFoundError
from bitbudget.app.dashboard.rendering import IS_SIGNED_IN, html
from bitbudget.app.http.errors import UnauthorizedError

__all__ = ["PageRoute", "missing_page", "own_address", "sign_in_page"]


class PageRoute(APIRoute):
    """Shows errors as pages to those who asked for a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors turned into pages."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            if request.url.path.endswith((".json", ".csv")):
                return await handle(request)
            IS_SIGNED_IN.set(TOKEN_COOKIE in request.cookies)
            try:
                return await handle(request)
            except UnauthorizedError as error:
                said = "" if TOKEN_COOKIE not in request.cookies else str(error)
                return sign_in_page(said, here(request))
            except BitbudgetError as error:
                return problem_page(error, request.url.path)

        return handle_page


def problem_page(error: BitbudgetError, path: str) -> Response:
    twin_of = "/index.json" if path == "/" else f"{path.rstrip('/')}.json"
    page = {"title": error.title(), "section": "", "twin": twin_of, "detail": str(error)}
    return html("problem.html", page, error.status)


def missing_page(path: str) -> Response:
    """Return the page for an address that leads nowhere."""
    return problem_page(NotFoundError(what="page", name=path), path)


def here(request: Request) -> str:
    """Return the address to come back to: the page that was asked for, else the first."""
    if request.method != "GET":
        return "/"
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def own_address(address: str) -> str:
    """Return an address on this server; the first page for any other."""
    is_own = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if is_own and address.isprintable() else "/"


def sign_in_page(error: str, to: str) -> Response:
    """Return the page that asks for a key, with what was wrong with the last, and leads on."""
    page = {"title": "Sign in", "section": "", "twin": "/index.json", "error": error, "to": to}
    return html("signin.html", page, status.HTTP_401_UNAUTHORIZED)
