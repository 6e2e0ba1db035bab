"""From a measurement and a budget to a manifest, within a time: allocation, clock and record."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.rotation_choice import solve_each

__all__ = ["allocate_in_time", "allocate_manifest", "best_manifest", "manifest_of"]


def allocate_manifest(measurement: Measurement, request: AllocationRequest) -> Manifest:
    """Return the manifest of the best allocation within `request.time_limit_seconds`.

    InfeasibleBudgetError names the smallest feasible size.
    """
    return manifest_of(measurement, request, allocate_in_time(measurement, request))


def best_manifest(measurements: Sequence[Measurement], request: AllocationRequest) -> Manifest:
    """Return the best manifest of measurements of one model, as it is and rotated.

    InfeasibleBudgetError when the budget fits none; it names the smallest size of the first.
    """
    return solve_each(
        measurements,
        lambda measurement: (measurement, allocate_manifest(measurement, request)),
        lambda found: (found[0], found[1].certificate.predicted_kl_nats_per_token),
    )[1]


def allocate_in_time(measurement: Measurement, request: AllocationRequest) -> Allocation:
    """Return the best allocation within `request.time_limit_seconds`."""
    ends_at = time.monotonic() + request.time_limit_seconds
    return allocate(
        measurement,
        request,
        is_over=lambda: time.monotonic() > ends_at,
        seconds_left=lambda: ends_at - time.monotonic(),
    )


def manifest_of(
    measurement: Measurement, request: AllocationRequest, allocation: Allocation
) -> Manifest:
    """Return the record of an allocation of `measurement`."""
    return Manifest.build(measurement, plan_checkpoint(measurement.inventory), request, allocation)
