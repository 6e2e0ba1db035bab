"""Decides whether a request may pass: its key, that key's scopes and its quota."""

from __future__ import annotations

from dataclasses import dataclass

from bitbudget.app.auth.principal import ANYONE, Principal, Scope
from bitbudget.app.auth.quota import RequestQuota
from bitbudget.app.auth.service import KeyService
from bitbudget.app.http.errors import ForbiddenError, UnauthorizedError

__all__ = ["Access"]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what on this server; without `needs_keys`, anyone may do anything."""

    keys: KeyService
    quota: RequestQuota
    needs_keys: bool

    def principal(self, token: str | None, scope: Scope) -> Principal:
        """Return who sends this token, None for no token.

        Raises UnauthorizedError, QuotaExceededError, or ForbiddenError where `scope` is missing.
        """
        if token is None:
            if self.needs_keys:
                raise UnauthorizedError(reason="send Authorization: Bearer <key>")
            return ANYONE
        principal = self.keys.principal(token)
        self.quota.spend(principal.owner)
        if not principal.may(scope):
            raise ForbiddenError(scope=scope)
        return principal
