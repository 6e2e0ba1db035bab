"""Who sent a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["HOME_USER", "Principal", "Scope"]


class Scope(StrEnum):
    """What a key may be used for; `admin` includes the others."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    MEASUREMENTS_WRITE = "measurements:write"
    WORKER = "worker"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a key, or the user whose home a server without keys is in."""

    owner: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether this scope, or `admin`, was granted."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


HOME_USER: Final = Principal("", frozenset(Scope))
"""Who sends the token in the home of a server that asks for no keys."""
