"""Checks that whoever claims, renews or ends a lease is the worker or the holder it says."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from bitbudget.app.auth import repository as keys
from bitbudget.app.auth.access import HOW_TO_ENTER, Access
from bitbudget.app.auth.tokens import TokenKind, parse_token
from bitbudget.app.http.errors import UnauthorizedError
from bitbudget.app.leases import repository
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import Clock
from bitbudget.app.workers import repository as workers
from bitbudget.app.workers.tables import WorkerRow

__all__ = ["LeaseAccess"]


@dataclass(frozen=True, slots=True)
class LeaseAccess:
    """Tokens of workers and of leases; where keys are not needed, that of the home is as good.

    A token is good for as long as the key that its worker registered with: revoking the key, or its
    last day, ends them all at once.
    """

    database: Database
    access: Access
    clock: Clock

    def check_worker(self, text: str | None, worker_id: str) -> None:
        """Raise UnauthorizedError unless this is the worker's own token."""
        if self._is_home_user(text, "send the worker's own"):
            return
        token = parse_token(text or "", TokenKind.WORKER)
        with self.database.read() as session:
            worker = workers.get(session, worker_id)
            if not token.proves(worker_id, worker.token_hash):
                raise UnauthorizedError(reason="this one is not the worker's")
            self._check_key(session, worker)

    def check_lease(self, text: str | None, lease_id: str) -> None:
        """Raise UnauthorizedError unless this is the lease's own token."""
        self.access.quota.spend(lease_id)
        if self._is_home_user(text, "send the lease's own"):
            return
        token = parse_token(text or "", TokenKind.LEASE)
        with self.database.read() as session:
            lease = repository.get(session, lease_id)
            if not token.proves(lease_id, lease.token_hash):
                raise UnauthorizedError(reason="this one is not the lease's")
            self._check_key(session, workers.get(session, lease.worker_id))

    def _check_key(self, session: Session, worker: WorkerRow) -> None:
        if not worker.owner and not self.access.needs_keys:
            return
        if not keys.is_usable(session, worker.owner, self.clock()):
            raise UnauthorizedError(reason="the key that its worker registered with has ended")

    def _is_home_user(self, text: str | None, reason: str) -> bool:
        if text is None:
            raise UnauthorizedError(reason=reason if self.access.needs_keys else HOW_TO_ENTER)
        return self.access.is_home_user(text)
