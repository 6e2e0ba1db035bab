"""Who sent a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["ANYONE", "Principal", "Scope"]


class Scope(StrEnum):
    """What a key may be used for; `admin` includes the others."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    MEASUREMENTS_WRITE = "measurements:write"
    WORKER = "worker"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a key, or anyone on an open server."""

    owner: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether this scope, or `admin`, was granted."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


ANYONE: Final = Principal("", frozenset(Scope))
"""Whoever reaches a server that asks for no keys."""
