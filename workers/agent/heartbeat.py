"""Keeps a lease alive from a thread of its own, so that no upload delays it."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Final, Self

from bitbudget.app.client.client import Client
from bitbudget.app.contract.events import Progress
from bitbudget.app.contract.leases import LeaseGrant
from bitbudget.app.core.errors import BitbudgetError, LostLeaseError

__all__ = ["Heartbeat"]

_LOG: Final = logging.getLogger(__name__)


class Heartbeat:
    """Renews `lease` with the latest `progress` until the block ends.

    `is_cancelled` and `is_lost` say what the server answered. A server that cannot be reached is
    asked again: the work goes on, and whether it was in vain shows when the server is back.
    """

    def __init__(self, server: str, lease: LeaseGrant) -> None:
        self._server = server
        self._lease = lease
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.progress: Progress | None = None
        self.is_cancelled = False
        self.is_lost = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._server, timeout_seconds=self._lease.lease_seconds / 2) as client:
            while not self._end.wait(self._lease.renew_seconds):
                self._renew(client)
                if self.is_lost:
                    return

    def _renew(self, client: Client) -> None:
        try:
            status = client.renew(self._lease, self.progress)
        except LostLeaseError:
            self.is_lost = True
        except BitbudgetError as error:
            _LOG.warning("renewing lease %s: %s", self._lease.lease_id, error)
        else:
            self.is_cancelled = status.cancel
