"""Prometheus gauges of what the database holds: jobs by status, workers seen lately."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bitbudget.app.jobs import repository as jobs
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import Clock
from bitbudget.app.workers import repository as workers

__all__ = ["StoredCounts"]

_SEEN_LATELY: Final = timedelta(minutes=2)


class StoredCounts(Collector):
    """Asks the database each time metrics are scraped."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: the database may not be there yet when this is registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count jobs by status and workers seen lately."""
        with self._database.read() as session:
            by_status = jobs.count_by_status(session)
            seen = workers.count_seen_since(session, self._clock() - _SEEN_LATELY)
        family = GaugeMetricFamily("bitbudget_jobs", "Jobs by status.", labels=("status",))
        for status, count in by_status.items():
            family.add_metric([status], count)
        yield family
        yield GaugeMetricFamily("bitbudget_workers", "Workers seen lately.", value=seen)
