"""Requests of the client: tokens, repetition, and problems turned back into errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import (
    BitbudgetError,
    InfeasibleBudgetError,
    LostLeaseError,
    NotFoundError,
)
from bitbudget.retrying import RetryPolicy

__all__ = ["ServerProblemError", "ServerUnreachableError", "Transport"]

_LOG: Final = logging.getLogger(__name__)
_RETRIES: Final = RetryPolicy(first_wait_seconds=0.2, longest_wait_seconds=60.0)
_AWAY: Final = (
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
"""Answers of a server, or of the proxy before it, that will be back."""
_PASSING: Final = (HTTPStatus.TOO_MANY_REQUESTS, *_AWAY)


class ServerUnreachableError(BitbudgetError):
    """No server answers at an address."""

    template = "No answer from {server}: {reason}; check that bitbudget serve runs there."


class ServerProblemError(BitbudgetError):
    """A server answered with a problem that has no error of its own."""

    template = "The server answered {status_code}: {detail}."


class Transport:
    """One server, one token, connections kept open."""

    def __init__(
        self,
        server: str,
        *,
        token: str | None,
        timeout_seconds: float,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        if token and _is_overheard(server):
            _LOG.warning(
                "%s is plain http to another machine: the token can be read on the way; use https",
                server,
            )
        token = token or _home_token(server)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.server: Final = server.rstrip("/")
        self._told = told
        self._http = httpx2.Client(base_url=self.server, headers=headers, timeout=timeout_seconds)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = False,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx2.Response:
        """Return the answer to one request, repeated while the server is away.

        Raises the error that the answered problem stands for.
        """
        sent = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}

        def send() -> httpx2.Response:
            answer = self._http.request(method, path, headers=sent, **options)
            if answer.status_code in _PASSING:
                answer.raise_for_status()
            return answer

        try:
            answer = _RETRIES.call(send, when=self._may_pass) if repeatable else send()
        except httpx2.TransportError as error:
            raise self._unreachable(str(error) or type(error).__name__) from error
        except httpx2.HTTPStatusError as error:
            answer = error.response
        if answer.status_code in _AWAY:
            raise self._unreachable(f"it answered {answer.status_code} {_detail(answer)}")
        raise_problem(answer)
        return answer

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
        """Open an answer that goes on until the server ends it."""
        with self._http.stream("GET", path, headers=headers) as answer:
            if answer.is_error:
                answer.read()
                raise_problem(answer)
            yield answer

    def _may_pass(self, error: Exception) -> bool | float:
        if isinstance(error, httpx2.HTTPStatusError):
            return _RETRIES.after(error.response.headers)
        if isinstance(error, httpx2.TransportError):
            self._told(f"{self.server} does not answer; asking again")
            return True
        return False

    def _unreachable(self, reason: str) -> ServerUnreachableError:
        return ServerUnreachableError(server=self.server, reason=reason)


def _home_token(server: str) -> str:
    """Return the token in this user's home for a server on this machine; often none."""
    return "" if _is_elsewhere(server) else HomeToken.of_environment().known()


def _is_overheard(server: str) -> bool:
    """Whether what is sent to `server` leaves this machine unencrypted."""
    return urlsplit(server).scheme == "http" and _is_elsewhere(server)


def _is_elsewhere(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    if host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


def raise_problem(answer: httpx2.Response) -> None:
    """Raise what a problem document stands for; do nothing when the answer is not an error."""
    if not answer.is_error:
        return
    problem = _problem(answer)
    slug = str(problem.get("type", "")).rsplit(":", 1)[-1]
    if slug == InfeasibleBudgetError.slug():
        raise InfeasibleBudgetError(
            budget_bytes=problem["budget_bytes"],
            minimum_bytes=problem["minimum_bytes"],
            binding=problem.get("binding", "checkpoint"),
        )
    if slug == LostLeaseError.slug():
        raise LostLeaseError(
            lease=problem["lease"], attempt=problem["attempt"], reason=problem["reason"]
        )
    if slug == NotFoundError.slug() and "what" in problem:
        raise NotFoundError(what=problem["what"], name=problem["name"])
    raise ServerProblemError(
        status_code=answer.status_code, detail=_detail(answer), problem=problem
    )


def _problem(answer: httpx2.Response) -> JsonObject:
    if not answer.headers.get("Content-Type", "").startswith("application/problem+json"):
        return {}
    problem: JsonObject = answer.json()
    return problem


def _detail(answer: httpx2.Response) -> str:
    return str(_problem(answer).get("detail", answer.reason_phrase)).rstrip(".")
