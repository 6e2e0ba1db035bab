"""Prometheus metrics of one server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bitbudget.app.jobs import repository as jobs
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import Clock
from bitbudget.app.workers import repository as machines

__all__ = ["Metrics"]

_SEEN_LATELY: Final = timedelta(minutes=2)


class Metrics:
    """Counts requests and streams; asks the database for the rest when scraped."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "bitbudget_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "bitbudget_request_seconds",
            "Time to the end of an answer, event streams left out.",
            ("route",),
            registry=self._registry,
        )
        self._registry.register(_DatabaseCollector(database, clock))

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Show a number that is read when scraped."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self._registry)


class _DatabaseCollector(Collector):
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def describe(self) -> list[GaugeMetricFamily]:
        """Say nothing before the database is there."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count jobs by status and workers seen lately."""
        with self._database.read() as session:
            by_status = jobs.count_by_status(session)
            seen = machines.count_seen_since(session, self._clock() - _SEEN_LATELY)
        family = GaugeMetricFamily("bitbudget_jobs", "Jobs by status.", labels=("status",))
        for status, count in by_status.items():
            family.add_metric([status], count)
        yield family
        yield GaugeMetricFamily("bitbudget_workers", "Workers seen lately.", value=seen)
