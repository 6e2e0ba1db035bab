"""Who breaks things: at random, but never so that a job loses its third and last attempt."""

from __future__ import annotations

import random
import time
from collections import Counter

from bitbudget.app.jobs.schemas import Job
from bitbudget.app.jobs.status import JobStatus
from tests.chaos.fleet import Fleet
from tests.support.postgres import Cluster

_WEIGHTS = {"server": 2, "worker": 3, "child": 5, "disk": 3, "database": 3}
_SAFE_ATTEMPTS = 2
_FULL_SECONDS = (0.2, 1.2)
_RESTARTS = 0.2


class Vandal:
    """Breaks what `chooser` picks and counts what it broke."""

    def __init__(self, fleet: Fleet, chooser: random.Random, cluster: Cluster | None) -> None:
        self._fleet = fleet
        self._chooser = chooser
        self._cluster = cluster
        self.broken: Counter[str] = Counter()

    @property
    def kinds(self) -> set[str]:
        """What can be broken here."""
        missing = {"database"} if self._cluster is None else set()
        return (
            _WEIGHTS.keys() - missing - ({"disk"} if None in self._fleet.disks.values() else set())
        )

    def strike(self, unfinished: list[Job]) -> None:
        """Break something, if no job is in danger of being given up."""
        attempts = (job.attempt + (job.status == JobStatus.QUEUED) for job in unfinished)
        if max(attempts, default=0) > _SAFE_ATTEMPTS:
            return
        kinds = sorted(self.kinds)
        (kind,) = self._chooser.choices(kinds, weights=[_WEIGHTS[kind] for kind in kinds])
        if getattr(self, f"_break_{kind}")():
            self.broken[kind] += 1

    def _break_server(self) -> bool:
        self._fleet.kill("server")
        time.sleep(self._chooser.uniform(0, 0.5))
        self._fleet.start("server")
        self._fleet.wait_until_ready()
        return True

    def _break_worker(self) -> bool:
        self._fleet.restart(self._chooser.choice(self._fleet.names))
        return True

    def _break_child(self) -> bool:
        return self._fleet.kill_child(self._chooser.choice(self._fleet.names))

    def _break_disk(self) -> bool:
        disk = self._fleet.disks[self._chooser.choice(["server", *self._fleet.names])]
        if disk is None:
            return False
        with disk.full():
            time.sleep(self._chooser.uniform(*_FULL_SECONDS))
        return True

    def _break_database(self) -> bool:
        if self._cluster is None:
            return False
        if self._chooser.random() < _RESTARTS:
            self._cluster.restart()
        else:
            self._cluster.cut_connections()
        return True
