"""Step allocate: from curves and a budget to a manifest."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.calibration import UNCALIBRATED
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.workers.pipeline.home import Home, write_whole
from bitbudget.workers.pipeline.report import Reporter, StepReport

__all__ = [
    "allocate_manifest",
    "answered_manifest",
    "keep_manifest",
    "make_manifest",
    "manifest_of",
    "solve",
]


_DECIDES: Final = {*AllocationRequest.model_fields, "recover"}
"""Fields of a request that a manifest depends on."""


def make_manifest(
    measurement: Measurement, request: AllocationRequest, home: Home, reporter: Reporter
) -> Manifest:
    """Allocate and announce manifest.json; InfeasibleBudgetError names the smallest size.

    A request that was answered on these curves is answered by the same manifest again, whatever
    checkpoints have refined the calibration since: a killed job goes on with what it has made.
    """
    report = reporter.step(Step.ALLOCATE)
    manifest = answered_manifest(measurement, request, home)
    keep_manifest(manifest, home, report)
    report.progress(1, 1, "allocations")
    return manifest


def answered_manifest(measurement: Measurement, request: AllocationRequest, home: Home) -> Manifest:
    """Return the manifest that answered this request on these curves, else allocate one now."""
    curves = replace(measurement, calibration=UNCALIBRATED, verification=None, warnings=())
    asked = request.model_dump(mode="json", include=_DECIDES)
    path = home.answer(sha256_of(canonical_json([sha256_of(curves.to_json()), asked])))
    if path.is_file():
        return Manifest.from_bytes(path.read_bytes(), where=str(path))
    manifest = allocate_manifest(measurement, request)
    write_whole(path, manifest.to_bytes())
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
