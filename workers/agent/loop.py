"""The worker's life: register, claim, run, again."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

from bitbudget.app.client.client import Client
from bitbudget.app.client.transport import ServerProblemError, ServerUnreachableError
from bitbudget.app.contract.leases import (
    LeaseGrant,
    LeaseOutcome,
    WorkerRegistration,
    WorkerWelcome,
)
from bitbudget.app.core.errors import BitbudgetError
from bitbudget.workers.agent.capabilities import capabilities
from bitbudget.workers.agent.followup import FollowupRun
from bitbudget.workers.agent.lease import LeaseRun

__all__ = ["Agent"]

_LOG: Final = logging.getLogger(__name__)
_AWAY_SECONDS: Final = 2.0
_LONGEST_REST_SECONDS: Final = 64.0
_FORGOTTEN: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


@dataclass
class Agent:
    """A worker of `server`; `token` lets it register where the server asks for one.

    `idle_exit` ends the worker when there is nothing to do, instead of waiting for more.
    Checkpoints are published below `publishes_to` when somebody asks, and nowhere by default.
    """

    server: str
    name: str
    home: Path
    token: str | None = None
    idle_exit: bool = False
    disk_limit_bytes: int | None = None
    publishes_to: str = ""
    measurement_repositories: tuple[str, ...] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    crashes: Counter[str] = field(default_factory=Counter, init=False)

    def run(self) -> None:
        """Work until `stop` is set; a server that is away is waited for."""
        with Client(self.server, token=self.token) as client:
            welcome: WorkerWelcome | None = None
            while not self.stop.is_set():
                try:
                    welcome = welcome or self._register(client)
                    if self._followed_up(client, welcome):
                        continue
                    lease = client.claim(welcome)
                except ServerUnreachableError as error:
                    _LOG.warning("%s", error)
                    self.stop.wait(_AWAY_SECONDS)
                except ServerProblemError as error:
                    welcome = self._after(error, welcome)
                else:
                    if lease is None and self.idle_exit:
                        return
                    self._work(client, lease, welcome.poll_seconds)

    def _register(self, client: Client) -> WorkerWelcome:
        welcome = client.register(
            WorkerRegistration(
                name=self.name, capabilities=capabilities(self.home, self.publishes_to)
            )
        )
        _LOG.info("registered at %s as %s", self.server, welcome.worker_id)
        return welcome

    def _followed_up(self, client: Client, welcome: WorkerWelcome) -> bool:
        """Do what is asked of a checkpoint made here, if anything is; somebody waits for it."""
        grant = client.claim_followup(welcome)
        if grant is None:
            return False
        _LOG.info("job %s: %s", grant.job_id, grant.asked.kind)
        try:
            FollowupRun(client, welcome, grant, self.home, self.stop, self.publishes_to).run()
        except BitbudgetError as error:
            _LOG.warning("job %s: %s", grant.job_id, error)
        return True

    def _work(self, client: Client, lease: LeaseGrant | None, poll_seconds: float) -> None:
        if lease is None:
            self.stop.wait(poll_seconds)
            return
        _LOG.info("job %s, attempt %d", lease.job_id, lease.attempt)
        self._rest_before(lease)
        try:
            outcome = LeaseRun(
                client,
                self.server,
                lease,
                self.home,
                self.stop,
                self.disk_limit_bytes,
                self.measurement_repositories,
            ).run()
        except BitbudgetError as error:
            _LOG.warning("job %s: %s", lease.job_id, error)
            return
        _LOG.info("job %s: %s", lease.job_id, outcome or "lease lost")
        self._note(lease.job_id, outcome)

    def _rest_before(self, lease: LeaseGrant) -> None:
        """Pause before a job that crashed here; the server gives the others first."""
        crashed = self.crashes.get(lease.job_id, 0)
        if crashed:
            self.stop.wait(min(2.0 ** (crashed - 1), lease.lease_seconds / 4))

    def _note(self, job_id: str, outcome: LeaseOutcome | None) -> None:
        """Remember the crashes in a row; pause where they were those of several jobs.

        A machine that is out of order, its disk full perhaps, must not use up the attempts of one
        job after the other while others could do them. One job that crashes delays no other.
        """
        if outcome is not LeaseOutcome.CRASHED:
            self.crashes.clear()
            return
        self.crashes[job_id] += 1
        jobs = len(self.crashes)
        if jobs > 1:
            self.stop.wait(min(2.0 ** (jobs - 1), _LONGEST_REST_SECONDS))

    def _after(
        self, error: ServerProblemError, welcome: WorkerWelcome | None
    ) -> WorkerWelcome | None:
        """Return the registration to go on with; raise what will not pass by itself."""
        status = error.fields["status_code"]
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _LOG.warning("%s", error)
            self.stop.wait(_AWAY_SECONDS)
            return welcome
        if welcome is None or status not in _FORGOTTEN:
            raise error
        return None
