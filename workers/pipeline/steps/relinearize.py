"""Few bits per weight: what errors cost together, measured at the allocation, which is then redone.

Curves add up while errors are small. Below `LOW_BITS_PER_WEIGHT` the incumbent allocation is run,
every group's error is measured alone and in the context of all others, and the allocation
is solved again on curves scaled by that, and with no group under 3 bits. What loses
least on other rollouts is taken, which may be the incumbent: never worse than without, there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from bitbudget.app.contract.reports import ModuleErrors, Relinearization, RelinearizationSkipped
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.effort import EFFORTS
from bitbudget.app.core.encoders import ENCODERS
from bitbudget.app.core.errors import InfeasibleBudgetError, InvalidRequestError
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement, Sensitivity
from bitbudget.app.core.relinearization import (
    LOW_BITS_PER_WEIGHT,
    MOST_DISAGREEMENT,
    GroupCosts,
    anchored,
    bits_per_weight,
    judged,
    relinearized,
)
from bitbudget.app.core.requests import Deliver, JobRequest
from bitbudget.app.core.solving import allocate_in_time, manifest_of
from bitbudget.workers.fisher import ModuleStatistics
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.measuring.elsewhere import KnownMeasurement
from bitbudget.workers.pipeline.measuring.reference import verifying_reference
from bitbudget.workers.pipeline.measuring.statistics import take_statistics
from bitbudget.workers.pipeline.options import GivenMeasurement
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.run import Measured, Run, Variant
from bitbudget.workers.pipeline.steps.allocate import keep_manifest
from bitbudget.workers.prediction.measured_kl import Coding, MeasuredKl, Trials

__all__ = ["is_needed", "run_step"]

_MOST_WORK: Final = 5e8
"""Weights x decision groups up to which it is done unasked: some minutes on two cores."""
_FLOOR_BITS: Final = 3
_INCUMBENT: Final = "as allocated first"
_SHARES_IN_CONTEXT: Final = {"mean of alone and in context": 0.5, "in context": 1.0}
"""Candidates of a round by name: the weight of the cost in context."""
_PREPARING: Final = 0.3
"""Part of the time until windows and statistics are there."""
_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True)
class _Redone:
    """The manifest to use, and what was found out on the way to it."""

    manifest: Manifest
    found: Relinearization


def is_needed(run: Run) -> bool:
    """Return whether bits are few, or the request asks for it.

    Statistics that were taken elsewhere are not taken again for a manifest alone.
    """
    request = run[JobRequest]
    is_measured = run.find(GivenMeasurement) or run.find(KnownMeasurement)
    if is_measured is not None and request.deliver is Deliver.MANIFEST:
        return False
    if request.relinearize is None:
        return EFFORTS[request.effort].verifies and _bits(run) < LOW_BITS_PER_WEIGHT
    return request.relinearize


def run_step(run: Run) -> Manifest:
    """Return the manifest of least measured KL, which may be the one there is; keep what was found.

    What was found is kept as a Relinearization, or as RelinearizationSkipped with the reason.
    """
    measurement, manifest = run[Measured].measurement, run[Manifest]
    obstacle = _obstacle(measurement, run[JobRequest])
    if obstacle:
        bits = _bits(run)
        run.report.log(
            f"errors at {bits:.2f} bits per weight are not measured together: {obstacle}"
        )
        run.keep(RelinearizationSkipped(bits_per_weight=bits, skipped=obstacle))
        return manifest
    seed = run[Variant].options.seed
    path = run.home.manifest(manifest.sha256) / f"low_bits-{seed}.json"
    if not path.is_file():
        with run.report.part(_PREPARING):
            known = _statistics(run)
            reference = verifying_reference(run, run[Variant])
        checkpoint, inventory = run[Variant].checkpoint, measurement.inventory
        coding = Coding(checkpoint, inventory, measurement.encoder, known, scratch=run.home.scratch)
        with Trials(coding, reference) as trials:
            _write(path, _redone(trials, run))
    redone = _read(path)
    run.keep(redone.found)
    keep_manifest(run, redone.manifest)
    return redone.manifest


def _bits(run: Run) -> float:
    """Return the bits per weight of the allocation there is."""
    return bits_per_weight(run[Measured].measurement.inventory, run[Manifest].formats)


def _statistics(run: Run) -> Mapping[str, ModuleStatistics]:
    if not ENCODERS[run[Measured].measurement.encoder].needs_statistics:
        return {}
    return take_statistics(run, run[Variant])


def _obstacle(measurement: Measurement, request: JobRequest) -> str:
    """Say why errors are not measured together, "" when they are."""
    if measurement.sensitivity is not Sensitivity.FISHER:
        return f"sensitivity {measurement.sensitivity.value} does without running the model"
    if request.joint_kv:
        return "with joint KV a part of the budget is not the weights'"
    weights = measurement.inventory.weights
    work = weights * len(measurement.inventory.decision_groups())
    if request.relinearize is None and work > _MOST_WORK:
        return "it would take long (--relinearize does it)"
    return ""


def _redone(trials: Trials, run: Run) -> _Redone:
    measurement, request = run[Measured].measurement, run[JobRequest]
    incumbent = allocate_in_time(measurement, request)
    candidates = {_INCUMBENT: incumbent} | _floored(measurement, request)
    judging = trials.reference.judging
    kl = {name: trials.kl(one.formats, judging).mean for name, one in candidates.items()}
    for number in range(1, _ROUNDS + 1):
        best = _least(kl)
        at = candidates[best].formats
        with run.report.part((1 - _PREPARING) / _ROUNDS):
            costs = trials.group_costs(at, partial(_tell, run.report, number))
        for name, share in _SHARES_IN_CONTEXT.items():
            again = allocate_in_time(relinearized(measurement, at, costs, share), request)
            candidates[f"{name}, round {number}"] = again
            kl[f"{name}, round {number}"] = trials.kl(again.formats, judging).mean
        if kl[_least(kl)] >= kl[best]:
            break
    best = _least(kl)
    formats = candidates[best].formats
    written = trials.kl_as_written(formats, judging)
    found = _found(measurement, candidates, kl, costs, written)
    redone = relinearized(measurement, at, costs, 0.5)
    curves = anchored(redone, formats, written.mean, written.log_error)
    chosen = replace(candidates[best], notes=(*incumbent.notes, *_notes(found)))
    allocation = judged(curves, allocate_in_time(curves, request), chosen)
    return _Redone(manifest_of(curves, request, allocation), found)


def _tell(report: Reporter, number: int, done: int, total: int) -> None:
    report.progress(done, total, "forward passes", f"groups alone and in context, round {number}")


def _least(kl: Mapping[str, float]) -> str:
    return min(kl, key=kl.__getitem__)


def _floored(measurement: Measurement, request: JobRequest) -> dict[str, Allocation]:
    """Return the allocation without a module of a block under 3 bits, where the budget allows."""
    blocks = [m.path for m in measurement.inventory.modules if m.layer is not None]
    floors = {path: max(_FLOOR_BITS, request.floors.get(path, 0)) for path in blocks}
    with suppress(InfeasibleBudgetError, InvalidRequestError):
        floored = request.model_copy(update={"floors": {**request.floors, **floors}})
        return {f"no block under {_FLOOR_BITS} bits": allocate_in_time(measurement, floored)}
    return {}


def _found(
    measurement: Measurement,
    candidates: Mapping[str, Allocation],
    kl: Mapping[str, float],
    costs: GroupCosts,
    written: MeasuredKl,
) -> Relinearization:
    """Return the entry `low_bits` of a result; all KL in nats per token."""
    best = _least(kl)
    return Relinearization(
        bits_per_weight=bits_per_weight(measurement.inventory, candidates[best].formats),
        predicted_kl_nats_per_token=candidates[_INCUMBENT].predicted_kl_nats_per_token,
        measured_kl_nats_per_token=dict(kl),
        chosen=best,
        rollouts=len(written.by_window),
        ends=ModuleErrors(
            alone=sum(costs.alone.values()),
            beside=sum(costs.beside.values()),
            whole=costs.whole,
            disagreement=costs.disagreement,
            warns_above=MOST_DISAGREEMENT,
        ),
        written_kl_nats_per_token=written.mean,
    )


def _notes(found: Relinearization) -> list[str]:
    kl, ends = found.measured_kl_nats_per_token, found.ends
    notes = [
        (
            f"{found.bits_per_weight:.2f} bits per weight: measured on {found.rollouts}"
            f" rollouts instead of predicted: {found.written_kl_nats_per_token:.3g} nats per"
            f" token; module by module {kl[found.chosen]:.3g} ({found.chosen}) and"
            f" {kl[_INCUMBENT]:.3g} ({_INCUMBENT}), predicted"
            f" {found.predicted_kl_nats_per_token:.3g}"
        )
    ]
    if ends.disagreement > MOST_DISAGREEMENT:
        notes.append(
            f"alone and in context disagree by a factor of {ends.disagreement:.2f} (over"
            f" {MOST_DISAGREEMENT}): the modules' errors cost {ends.alone:.3g} nats per token"
            f" each alone and {ends.beside:.3g} in context, so predictions near this size"
            " are less sure"
        )
    return notes


def _write(path: Path, redone: _Redone) -> None:
    document = {
        "manifest": redone.manifest.to_bytes().decode(),
        "found": redone.found.model_dump(mode="json"),
    }
    write_whole(path, (json.dumps(document, indent=1) + "\n").encode())


def _read(path: Path) -> _Redone:
    document = json.loads(path.read_bytes())
    return _Redone(
        Manifest.from_bytes(document["manifest"].encode()),
        Relinearization.model_validate(document["found"]),
    )
