"""Which failures of the Hub may pass, and what each means to the user in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NoReturn, TypeVar

import httpx2
import stamina
from huggingface_hub import errors as hub_errors

from bitbudget.app.core.errors import (
    BitbudgetError,
    HubAccessError,
    HubUnavailableError,
    NotFoundError,
)
from bitbudget.retrying import RetryPolicy, retry_after_seconds

__all__ = ["FAILURES", "UNREACHABLE", "hub_call", "hub_tries", "raise_meaning"]

T = TypeVar("T")

FAILURES: Final = (
    hub_errors.HfHubHTTPError,
    httpx2.TransportError,
    httpx2.TooManyRedirects,
    hub_errors.OfflineModeIsEnabled,
)
"""What a request to the Hub raises: an answer that is an error, or no (whole) answer."""

UNREACHABLE: Final = (httpx2.ConnectError, httpx2.ConnectTimeout)
"""What is raised when no connection can be made at all."""

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_TOO_MANY_REQUESTS: Final = 429
_TRANSIENT: Final = frozenset({408, 425, _TOO_MANY_REQUESTS, 500, 502, 503, 504})
_LOGIN: Final = "set HF_TOKEN to a token that may read it, or accept its terms on the Hub"


def hub_call(
    retries: RetryPolicy,
    what: str,
    call: Callable[[], T],
    *,
    at_once: tuple[type[Exception], ...] = (),
) -> T:
    """Return `call()`, tried again while the failure may pass; else raise a BitbudgetError.

    Failures of the kinds `at_once` are not tried again.
    """
    may_pass = _may_pass(retries)
    try:
        return retries.call(
            call, when=lambda error: not isinstance(error, at_once) and may_pass(error)
        )
    except FAILURES as error:
        raise_meaning(what, error)


def hub_tries(retries: RetryPolicy) -> Iterable[stamina.Attempt]:
    """Give attempts, as `RetryPolicy.tries`, while the Hub's failure may pass."""
    return retries.tries(_may_pass(retries))


def _may_pass(retries: RetryPolicy) -> Callable[[Exception], bool | float]:
    def ask(error: Exception) -> bool | float:
        if isinstance(error, hub_errors.HfHubHTTPError):
            if error.response.status_code not in _TRANSIENT:
                return False
            return retries.after(error.response.headers)
        return isinstance(error, httpx2.TransportError) and not isinstance(
            error, httpx2.UnsupportedProtocol
        )

    return ask


def raise_meaning(what: str, error: Exception) -> NoReturn:
    """Raise what the last failure of a request for `what` means to the user."""
    if isinstance(error, hub_errors.HfHubHTTPError):
        raise _of_status(what, error) from error
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        reason, remedy = "HF_HUB_OFFLINE is set", "unset it, or give a local folder"
    elif isinstance(error, httpx2.TooManyRedirects):
        reason, remedy = "it redirects in a circle", "check HF_ENDPOINT and proxy settings"
    else:
        reason = f"{type(error).__name__}: {error}"[:200]
        remedy = "check the network, HF_ENDPOINT and proxy settings, and start again to resume"
    raise HubUnavailableError(what=what, reason=reason, remedy=remedy) from error


def _of_status(what: str, error: hub_errors.HfHubHTTPError) -> BitbudgetError:
    status = error.response.status_code
    if isinstance(error, hub_errors.GatedRepoError):
        return HubAccessError(what=what, reason="the model is gated", remedy=_LOGIN)
    if status == _NOT_FOUND or isinstance(error, hub_errors.RepositoryNotFoundError):
        return NotFoundError(what="revision, file or model (private ones need HF_TOKEN)", name=what)
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        return HubAccessError(what=what, reason=f"HTTP {status}", remedy=_LOGIN)
    seconds = retry_after_seconds(error.response.headers)
    if status == _TOO_MANY_REQUESTS:
        wait = "later" if seconds is None else f"in {seconds:.0f} seconds"
        reason, remedy = "too many requests (HTTP 429)", f"try again {wait}; HF_TOKEN raises limits"
    else:
        reason, remedy = f"HTTP {status}", "try again later; finished parts are kept"
    return HubUnavailableError(what=what, reason=reason, remedy=remedy, retry_after_seconds=seconds)
