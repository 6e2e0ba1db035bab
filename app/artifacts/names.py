"""The files a worker may upload."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ArtifactName"]


class ArtifactName(StrEnum):
    """An artifact of a job; each is a JSON document."""

    INVENTORY = "inventory.json"
    MEASUREMENT = "measurement.json"
    MANIFEST = "manifest.json"
    EVALUATION = "evaluation.json"
    BENCHMARK = "benchmark.json"
