"""Keeps a lease alive from a thread of its own, so that no upload delays it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from itertools import islice
from types import TracebackType
from typing import Final, Self

from bitbudget.app.client.client import Client
from bitbudget.app.contract.events import Logged, Progress
from bitbudget.app.contract.leases import (
    LOG_LINES_AT_ONCE,
    MOST_LOG_LINES,
    LeaseGrant,
    LogLine,
)
from bitbudget.app.core.errors import BitbudgetError, LostLeaseError

__all__ = ["Heartbeat"]

_LOG: Final = logging.getLogger(__name__)


class Heartbeat:
    """Renews `lease` with the latest `progress` and new lines of the log until the block ends.

    `is_cancelled` and `is_lost` say what the server answered. A server that cannot be reached is
    asked again: the work goes on, and whether it was in vain shows when the server is back.
    """

    def __init__(self, server: str, lease: LeaseGrant) -> None:
        self._server = server
        self._lease = lease
        self._end = threading.Event()
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._log: deque[LogLine] = deque()
        self._logged = 0
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

    def log(self, event: Logged) -> None:
        """Tell a line with the next renewal; those over the most an attempt may have are lost."""
        if self._logged < MOST_LOG_LINES:
            self._logged += 1
            self._log.append(LogLine(number=self._logged, step=event.step, detail=event.detail))

    def flush(self, client: Client) -> None:
        """Tell what the attempt has logged before its end is told."""
        while self._log and self._renew(client):
            pass

    def _run(self) -> None:
        with Client(self._server, timeout_seconds=self._lease.lease_seconds / 2) as client:
            while not self._end.wait(self._lease.renew_seconds):
                self._renew(client)
                if self.is_lost:
                    return

    def _renew(self, client: Client) -> bool:
        """Renew once; return whether the server took it."""
        with self._renewing:
            return self._renew_alone(client)

    def _renew_alone(self, client: Client) -> bool:
        lines = list(islice(self._log, LOG_LINES_AT_ONCE))
        try:
            status = client.renew(self._lease, self.progress, lines)
        except LostLeaseError:
            self.is_lost = True
        except BitbudgetError as error:
            _LOG.warning("renewing lease %s: %s", self._lease.lease_id, error)
        else:
            self.is_cancelled = status.cancel
            for _ in lines:
                self._log.popleft()
            return True
        return False
