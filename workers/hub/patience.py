"""Retrying a request to the Hub, and saying clearly why it failed in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

import httpx2
from huggingface_hub import errors as hub_errors

from bitbudget.app.core.errors import (
    BitbudgetError,
    HubAccessError,
    HubUnavailableError,
    NotFoundError,
)

__all__ = ["DROPPED", "Patience"]

T = TypeVar("T")

DROPPED: Final = (httpx2.TransportError, hub_errors.OfflineModeIsEnabled)
"""What is raised when there is no (whole) answer."""

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_TOO_MANY_REQUESTS: Final = 429
_TRANSIENT: Final = frozenset({408, 425, _TOO_MANY_REQUESTS, 500, 502, 503, 504})
_LOGIN: Final = "set HF_TOKEN to a token that may read it, or accept its terms on the Hub"


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is tried and how long is waited in between.

    The wait doubles from `first_wait_seconds`; a `Retry-After` that is longer replaces it, and one
    beyond `longest_wait_seconds` ends the attempts at once.
    """

    attempts: int = 6
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    timeout_seconds: float = 30.0

    def attempt(self, what: str, call: Callable[[], T]) -> T:
        """Return `call()`, tried again while the failure may pass; else raise a BitbudgetError."""
        failures = 0
        while True:
            try:
                return call()
            except (hub_errors.HfHubHTTPError, *DROPPED) as error:
                failures += 1
                self.wait_or_raise(what, error, failures)

    def wait_or_raise(self, what: str, error: Exception, failures: int) -> None:
        """Sleep before the next attempt after so many failures, or raise what `error` means."""
        seconds = max(self.first_wait_seconds * 2 ** (failures - 1), _retry_after(error) or 0.0)
        give_up = failures >= self.attempts or seconds > self.longest_wait_seconds
        if give_up or not _may_pass(error):
            _raise(what, error)
        time.sleep(seconds)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, hub_errors.HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    return isinstance(error, httpx2.TransportError) and not isinstance(
        error, httpx2.UnsupportedProtocol
    )


def _retry_after(error: Exception) -> float | None:
    if not isinstance(error, hub_errors.HfHubHTTPError):
        return None
    value = error.response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def _raise(what: str, error: Exception) -> NoReturn:
    if isinstance(error, hub_errors.HfHubHTTPError):
        raise _of_status(what, error) from error
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        reason, remedy = "HF_HUB_OFFLINE is set", "unset it, or give a local folder"
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
    seconds = _retry_after(error)
    if status == _TOO_MANY_REQUESTS:
        wait = "later" if seconds is None else f"in {seconds:.0f} seconds"
        reason, remedy = "too many requests (HTTP 429)", f"try again {wait}; HF_TOKEN raises limits"
    else:
        reason, remedy = f"HTTP {status}", "try again later; finished parts are kept"
    return HubUnavailableError(what=what, reason=reason, remedy=remedy, retry_after_seconds=seconds)
