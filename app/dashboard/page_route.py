"""What routes of pages share: errors as pages, signing in, addresses on this server."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response, status
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from bitbudget.app.auth.access import Access
from bitbudget.app.auth.dependencies import TOKEN_COOKIE
from bitbudget.app.core.errors import BitbudgetError, NotFoundError
from bitbudget.app.dashboard.rendering import IS_SIGNED_IN, html
from bitbudget.app.http.errors import UnauthorizedError

__all__ = ["PageRoute", "keep_token", "missing_page", "own_address", "sign_in_page"]

_SIGNS_IN: Final = "token"
"""The parameter of a link that signs a browser in."""


class PageRoute(APIRoute):
    """Shows errors as pages to those who asked for a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors turned into pages."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            if request.url.path.endswith((".json", ".csv")):
                return await handle(request)
            IS_SIGNED_IN.set(TOKEN_COOKIE in request.cookies)
            if request.method == "GET" and _SIGNS_IN in request.query_params:
                return _signed_in_by_link(request)
            try:
                return await handle(request)
            except UnauthorizedError as error:
                said = "" if TOKEN_COOKIE not in request.cookies else str(error)
                return sign_in_page(request, said, here(request))
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


def sign_in_page(request: Request, error: str, to: str) -> Response:
    """Return the page that asks for a key, with what was wrong with the last, and leads on."""
    page = {
        "title": "Sign in",
        "section": "",
        "twin": "/index.json",
        "error": error,
        "to": to,
        "needs_keys": _access(request).needs_keys,
    }
    return html("signin.html", page, status.HTTP_401_UNAUTHORIZED)


def keep_token(request: Request, answer: Response, token: str) -> None:
    """Keep a token in a cookie that scripts cannot read and other sites cannot send."""
    secure = "https" in {request.url.scheme, request.headers.get("x-forwarded-proto")}
    answer.set_cookie(TOKEN_COOKIE, token, httponly=True, samesite="strict", secure=secure)


def _signed_in_by_link(request: Request) -> Response:
    """Answer the link that `bitbudget serve` prints: keep its token, and lead to its page."""
    token = request.query_params[_SIGNS_IN]
    rest = request.url.remove_query_params(_SIGNS_IN)
    to = own_address(rest.path + (f"?{rest.query}" if rest.query else ""))
    if not _access(request).is_home_user(token):
        return sign_in_page(request, "The token of this link is not this server's.", to)
    answer = RedirectResponse(to, status.HTTP_303_SEE_OTHER)
    keep_token(request, answer, token)
    return answer


def _access(request: Request) -> Access:
    access: Access = request.app.state.provided[Access]
    return access
