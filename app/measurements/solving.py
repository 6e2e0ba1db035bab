"""From a stored measurement and a budget to a manifest, without a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitbudget.app.contract.reports import Answer
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.rotation_choice import solve_each
from bitbudget.app.core.solving import allocate_manifest

__all__ = ["Solved", "answer_of", "solve", "solve_best"]


@dataclass(frozen=True, slots=True)
class Solved:
    """A manifest with its canonical bytes."""

    manifest: Manifest
    data: bytes
    answer: Answer


def solve(measurement: Measurement, request: AllocationRequest) -> Solved:
    """Allocate within the budget; InfeasibleBudgetError names the smallest feasible size."""
    manifest = allocate_manifest(measurement, request)
    return Solved(manifest, manifest.to_bytes(), answer_of(manifest))


def solve_best(
    measurements: Sequence[Measurement], request: AllocationRequest
) -> tuple[Measurement, Solved]:
    """Return the best answer from measurements of one model, as it is and rotated, and its origin.

    InfeasibleBudgetError when the budget fits none; it names the smallest size of the first.
    """
    return solve_each(
        measurements,
        lambda measurement: (measurement, solve(measurement, request)),
        lambda found: (found[0], found[1].answer.predicted_kl_nats_per_token),
    )


def answer_of(manifest: Manifest) -> Answer:
    """Return the head of a manifest."""
    certificate = manifest.certificate
    return Answer(
        manifest_sha256=manifest.sha256,
        file_bytes=manifest.file_bytes,
        budget_bytes=manifest.budget_bytes,
        bits_per_weight=manifest.bits_per_weight,
        predicted_kl_nats_per_token=certificate.predicted_kl_nats_per_token,
        bound=certificate.bound,
        gap=certificate.gap,
        status=certificate.status,
    )
