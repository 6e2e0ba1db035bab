"""Stage allocate: from curves and a budget to a manifest."""

from __future__ import annotations

import time

from app.core.allocate import allocate
from app.core.layout import plan_checkpoint
from app.core.manifest import Manifest
from app.core.measurement import Measurement
from app.core.requests import AllocationRequest
from app.leases.schemas import Stage
from workers.stages.home import Home, write_whole
from workers.stages.report import Reporter

__all__ = ["allocate_manifest", "make_manifest"]


def make_manifest(
    measurement: Measurement, request: AllocationRequest, home: Home, reporter: Reporter
) -> Manifest:
    """Allocate and announce manifest.json; InfeasibleBudgetError names the smallest size."""
    report = reporter.stage(Stage.ALLOCATE)
    manifest = allocate_manifest(measurement, request)
    report.artifact(
        write_whole(home.manifest(manifest.sha256) / "manifest.json", manifest.to_bytes())
    )
    report.progress(1, 1, "allocations")
    return manifest


def allocate_manifest(measurement: Measurement, request: AllocationRequest) -> Manifest:
    """Return the manifest of the best allocation within `request.time_limit_seconds`."""
    end = time.monotonic() + request.time_limit_seconds
    allocation = allocate(measurement, request, is_over=lambda: time.monotonic() > end)
    layout = plan_checkpoint(measurement.inventory)
    return Manifest.build(measurement, layout, request, allocation)
