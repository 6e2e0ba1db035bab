"""Checks that whoever claims, renews or ends a lease is the worker or the holder it says."""

from __future__ import annotations

from dataclasses import dataclass

from bitbudget.app.auth.tokens import TokenKind, parse_token
from bitbudget.app.http.errors import UnauthorizedError
from bitbudget.app.leases import repository
from bitbudget.app.storage.database import Database
from bitbudget.app.workers import repository as workers

__all__ = ["LeaseAccess"]


@dataclass(frozen=True, slots=True)
class LeaseAccess:
    """Tokens of workers and of leases; without `needs_keys`, none must be sent."""

    database: Database
    needs_keys: bool

    def check_worker(self, text: str | None, worker_id: str) -> None:
        """Raise UnauthorizedError unless this is the worker's own token."""
        if self._may_omit(text, "send the worker's own"):
            return
        token = parse_token(text or "", TokenKind.WORKER)
        with self.database.read() as session:
            stored = workers.get(session, worker_id).token_hash
        if not token.proves(worker_id, stored):
            raise UnauthorizedError(reason="this one is not the worker's")

    def check_lease(self, text: str | None, lease_id: str) -> None:
        """Raise UnauthorizedError unless this is the lease's own token."""
        if self._may_omit(text, "send the lease's own"):
            return
        token = parse_token(text or "", TokenKind.LEASE)
        with self.database.read() as session:
            stored = repository.get(session, lease_id).token_hash
        if not token.proves(lease_id, stored):
            raise UnauthorizedError(reason="this one is not the lease's")

    def _may_omit(self, text: str | None, reason: str) -> bool:
        if text is None and self.needs_keys:
            raise UnauthorizedError(reason=reason)
        return text is None
