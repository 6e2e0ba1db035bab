"""Prometheus metrics of one server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

__all__ = ["Metrics"]


class Metrics:
    """Counts requests; other numbers are read from their sources when scraped."""

    def __init__(self) -> None:
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

    def register(self, collector: Collector) -> None:
        """Show what this collector counts whenever metrics are scraped."""
        self._registry.register(collector)

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """Show a number that is read when scraped."""
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self._registry)
