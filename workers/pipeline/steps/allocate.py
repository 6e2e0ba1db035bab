"""Step allocate: from curves and a budget to a manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from bitbudget.app.core.calibration import UNCALIBRATED
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest, JobRequest
from bitbudget.app.core.rotation_choice import solve_each
from bitbudget.app.core.solving import allocate_manifest
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.options import GivenAnswer
from bitbudget.workers.pipeline.run import AllocatedByCurves, Measured, Measurements, Run
from bitbudget.workers.pipeline.steps.inventory import announce

__all__ = ["answered_manifest", "keep_manifest", "run_step"]

_DECIDES: Final = {*AllocationRequest.model_fields, "recover"}
"""Fields of a request that a manifest depends on."""


@dataclass(frozen=True, slots=True)
class _Solved:
    measured: Measured
    manifest: Manifest


def run_step(run: Run) -> Manifest:
    """Return the manifest of the best allocation, announced as manifest.json.

    Of several variants that of the lowest expected KL is kept for the steps to come; its files are
    announced last. A request that was answered on these curves, here or by an earlier attempt
    elsewhere, is answered by the same manifest again, whatever checkpoints have refined the
    calibration since: a killed job goes on with what it has made. InfeasibleBudgetError names the
    smallest size.
    """
    measurements, request = run[Measurements].all, run[JobRequest]
    given = run.find(GivenAnswer)
    best = solve_each(
        measurements,
        lambda each: _Solved(each, answered_manifest(run, each.measurement, request, given)),
        lambda solved: (
            solved.measured.measurement,
            solved.manifest.certificate.predicted_kl_nats_per_token,
        ),
    )
    if best.measured is not measurements[-1]:
        announce(run, best.measured.variant)
        run.report.artifact(best.measured.path)
    run.keep(best.measured, best.measured.variant, AllocatedByCurves(best.manifest.sha256))
    keep_manifest(run, best.manifest)
    run.report.progress(1, 1, "allocations")
    return best.manifest


def answered_manifest(
    run: Run,
    measurement: Measurement,
    request: AllocationRequest,
    given: GivenAnswer | None = None,
) -> Manifest:
    """Return the manifest that answered this request on these curves, else allocate one now.

    It is in this home, or `given` as the answer to this very request.
    """
    curves = replace(measurement, calibration=UNCALIBRATED, verification=None, warnings=())
    asked = request.model_dump(mode="json", include=_DECIDES)
    path = run.home.answer(sha256_of(canonical_json([sha256_of(curves.to_json()), asked])))
    if path.is_file():
        return Manifest.from_bytes(path.read_bytes(), where=str(path))
    if given is not None:
        answer = Manifest.from_bytes(given.path.read_bytes(), where=str(given.path))
        if answer.measurement == measurement.key:
            return answer
    manifest = allocate_manifest(measurement, request)
    write_whole(path, manifest.to_bytes())
    return manifest


def keep_manifest(run: Run, manifest: Manifest, name: str = "") -> None:
    """Store manifest.json under its digest, and announce it by `name` and as an answer."""
    path = run.home.manifest(manifest.sha256) / "manifest.json"
    run.report.artifact(write_whole(path, manifest.to_bytes()), name)
    run.report.answer(manifest, path)
