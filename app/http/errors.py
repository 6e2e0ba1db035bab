"""Errors that only a server has; `app.core.errors` draws the tree they belong to."""

from __future__ import annotations

from collections.abc import Mapping

from bitbudget.app.core.errors import BitbudgetError

__all__ = [
    "DigestMismatchError",
    "ForbiddenError",
    "KeyMismatchError",
    "QuotaExceededError",
    "UnauthorizedError",
    "UnavailableError",
    "UnknownModelError",
    "UnreadableModelError",
    "UnsafeBindError",
    "UntoldModelError",
]


class UnauthorizedError(BitbudgetError):
    """A request came without a valid bearer token."""

    template = "A valid bearer token is needed: {reason}."
    status = 401

    @property
    def headers(self) -> Mapping[str, str]:
        """Tell the client which scheme to use (RFC 9110, section 11.6.1)."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(BitbudgetError):
    """A bearer token is valid but may not do this."""

    template = "This token may not do this: it has no scope {scope}."
    status = 403


class QuotaExceededError(BitbudgetError):
    """A caller has as much open, or asked as often, as it may."""

    template = "{what}: the limit is {limit}; try again later."
    status = 429

    @property
    def headers(self) -> Mapping[str, str]:
        """Tell the client when to come back."""
        return {"Retry-After": "5"}


class KeyMismatchError(BitbudgetError):
    """An idempotency key was sent again with another body."""

    template = (
        "Idempotency-Key '{key}' was used with another body; take a new key for a new request."
    )
    status = 422


class DigestMismatchError(BitbudgetError):
    """A body is not the one that its Content-Digest describes."""

    template = "Content-Digest says SHA-256 {expected}, the body has {found}; send it again."
    status = 409


class UnavailableError(BitbudgetError):
    """Something the server needs does not answer at the moment."""

    template = "The {what} cannot be reached at the moment; try again."
    status = 503

    @property
    def headers(self) -> Mapping[str, str]:
        """Tell the client when to come back."""
        return {"Retry-After": "2"}


class UnsafeBindError(BitbudgetError):
    """The server would listen to other machines without asking for a key."""

    template = "Refusing to listen on '{host}' without a key; run bitbudget key create first."
    exit_code = 2


class UnknownModelError(BitbudgetError):
    """A model was never measured here and cannot be read from here."""

    template = (
        "'{model}' was never here; submit a job for it, or run bitbudget fit '{model}' locally."
    )
    status = 404


class UntoldModelError(BitbudgetError):
    """A worker must read a model first: this server has no mlx-lm that knows its type."""

    template = "'{model}' is read by a worker first: {reason}."
    status = 422


class UnreadableModelError(BitbudgetError):
    """The headers of a model cannot be read."""

    template = "'{model}' cannot be read: {reason}."
    status = 422
