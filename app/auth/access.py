"""Decides whether a request may pass: its key, that key's scopes and its quota."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bitbudget.app.auth.principal import HOME_USER, Principal, Scope
from bitbudget.app.auth.quota import RequestQuota
from bitbudget.app.auth.service import KeyService
from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.http.errors import ForbiddenError, UnauthorizedError

__all__ = ["HOW_TO_ENTER", "Access"]

HOW_TO_ENTER: Final = (
    "open the address that bitbudget serve printed, run commands as its user, or send"
    " Authorization: Bearer with what is in the file token of its BITBUDGET_HOME"
)
_NO_KEY: Final = "send Authorization: Bearer <key>"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what on this server.

    One that `needs_keys` takes keys alone. Any other listens on loopback, and the token in its home
    stands for its user, who may do everything.
    """

    keys: KeyService
    quota: RequestQuota
    needs_keys: bool
    home_token: HomeToken

    def is_home_user(self, token: str | None) -> bool:
        """Whether this is the token in the home, on a server where it counts."""
        return token is not None and not self.needs_keys and self.home_token.proves(token)

    def identify(self, token: str | None) -> Principal:
        """Return who sends this token, None for no token; UnauthorizedError for nobody."""
        if self.is_home_user(token):
            return HOME_USER
        if token is None:
            raise UnauthorizedError(reason=_NO_KEY if self.needs_keys else HOW_TO_ENTER)
        return self.keys.principal(token)

    def principal(self, token: str | None, scope: Scope) -> Principal:
        """Return who sends this token, None for no token.

        Raises UnauthorizedError, QuotaExceededError, or ForbiddenError where `scope` is missing.
        """
        principal = self.identify(token)
        if principal is HOME_USER:
            return principal
        self.quota.spend(principal.owner)
        if not principal.may(scope):
            raise ForbiddenError(scope=scope)
        return principal
