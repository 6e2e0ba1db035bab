"""The files a worker may upload."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.messages import Report
from bitbudget.app.contract.reports import Evaluation

__all__ = ["ArtifactName"]


class ArtifactName(StrEnum):
    """An artifact of a job; each is a JSON document.

    One that the server keeps as it is names the `report` that it must be; the others are put into
    tables by the intake.
    """

    report: type[Report]

    def __new__(cls, name: str, report: type[Report] = Report) -> Self:
        """Return the member called `name`, which is its value on the wire."""
        artifact = str.__new__(cls, name)
        artifact._value_ = name
        artifact.report = report
        return artifact

    INVENTORY = "inventory.json"
    FIRST_MEASUREMENT = "first_measurement.json"
    FIRST_MANIFEST = "first_manifest.json"
    MEASUREMENT = "measurement.json"
    MANIFEST = "manifest.json"
    EVALUATION = ("evaluation.json", Evaluation)
    BENCHMARK = ("benchmark.json", Benchmark)
