"""Step allocate: from curves and a budget to a manifest."""

from __future__ import annotations

import time

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.workers.pipeline.home import Home, write_whole
from bitbudget.workers.pipeline.report import Reporter, StepReport

__all__ = ["allocate_manifest", "keep_manifest", "make_manifest", "manifest_of", "solve"]


def make_manifest(
    measurement: Measurement, request: AllocationRequest, home: Home, reporter: Reporter
) -> Manifest:
    """Allocate and announce manifest.json; InfeasibleBudgetError names the smallest size."""
    report = reporter.step(Step.ALLOCATE)
    manifest = allocate_manifest(measurement, request)
    keep_manifest(manifest, home, report)
    report.progress(1, 1, "allocations")
    return manifest


def keep_manifest(manifest: Manifest, home: Home, report: StepReport) -> None:
    """Store manifest.json under its digest and announce it."""
    path = home.manifest(manifest.sha256) / "manifest.json"
    report.artifact(write_whole(path, manifest.to_bytes()))


def allocate_manifest(measurement: Measurement, request: AllocationRequest) -> Manifest:
    """Return the manifest of the best allocation within `request.time_limit_seconds`."""
    return manifest_of(measurement, request, solve(measurement, request))


def solve(measurement: Measurement, request: AllocationRequest) -> Allocation:
    """Return the best allocation within `request.time_limit_seconds`."""
    end = time.monotonic() + request.time_limit_seconds
    return allocate(measurement, request, is_over=lambda: time.monotonic() > end)


def manifest_of(
    measurement: Measurement, request: AllocationRequest, allocation: Allocation
) -> Manifest:
    """Return the record of an allocation of `measurement`."""
    return Manifest.build(measurement, plan_checkpoint(measurement.inventory), request, allocation)
