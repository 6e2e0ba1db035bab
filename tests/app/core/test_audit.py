from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.audit import audit
from bitbudget.app.core.calibration import Calibration
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import KvCurve, KvPoint, Measurement
from bitbudget.app.core.requests import AllocationRequest, JobRequest

BUDGET = 200_000
EMBEDDING = "model.embed_tokens"
Change = Callable[[dict[str, Any]], None]


def built(measurement: Measurement, request: AllocationRequest) -> Manifest:
    layout = plan_checkpoint(measurement.inventory)
    return Manifest.build(measurement, layout, request, allocate(measurement, request))


def changed(manifest: Manifest, change: Change) -> Manifest:
    document = json.loads(manifest.to_bytes())
    change(document)
    return Manifest.from_bytes(json.dumps(document).encode())


def certificate(**fields: Any) -> Change:
    return lambda document: document["certificate"].update(fields)


def module(**fields: Any) -> Change:
    return lambda document: document["modules"][EMBEDDING].update(fields)


def over_budget(document: dict[str, Any]) -> None:
    document["file_bytes"] = 10**12


def half(document: dict[str, Any]) -> None:
    """Say that half as much is lost, consistently."""
    told = document["certificate"]
    for name in ("predicted_kl_nats_per_token", "bound"):
        told[name] /= 2
    for choice in document["modules"].values():
        choice["kl_nats"] /= 2


def one_module_cheaper(document: dict[str, Any]) -> None:
    choice = document["modules"][EMBEDDING]
    told = document["certificate"]
    told["predicted_kl_nats_per_token"] -= choice["kl_nats"]
    told["bound"] = min(told["bound"], told["predicted_kl_nats_per_token"])
    told["gap"] = 1 - told["bound"] / told["predicted_kl_nats_per_token"]
    choice["kl_nats"] = 0.0


def other_budget(document: dict[str, Any]) -> None:
    document["request"]["budget"] = document["budget_bytes"] = 10**9


CHANGES: dict[str, Change] = {
    "over the budget": over_budget,
    "another request": other_budget,
    "another budget": lambda d: d.update(budget_bytes=10**12),
    "another model": lambda d: d["model"].update(digest="f" * 64),
    "another name": lambda d: d["model"].update(name="org/other"),
    "an unknown measurement": lambda d: d.update(measurement="f" * 64),
    "another encoder": lambda d: d.update(encoder="gptq"),
    "recovery that nobody asked for": lambda d: d.update(recover="scales"),
    "no modules": lambda d: d.update(modules={}),
    "a module too many": lambda d: d["modules"].update(x=d["modules"][EMBEDDING]),
    "bytes that are not the module's": module(bytes=1),
    "a format that was not measured": module(format="mxfp4", bytes=1),
    "an error that was not measured": module(t2=0.0),
    "a cost that was not measured": one_module_cheaper,
    "half the prediction": half,
    "a bound above the prediction": certificate(bound=1e9, gap=0.0),
    "a negative prediction": certificate(predicted_kl_nats_per_token=-1.0, bound=-1.0),
    "a gap that is not the bound's": certificate(gap=0.5),
    "a cache that nobody asked for": lambda d: d.update(
        kv_cache={"0": {"both": {"bits": 16, "group_size": 0, "bytes": 0, "kl_nats": 0.0}}}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_false_manifest_is_refused(measurement: Measurement, change: Change) -> None:
    request = AllocationRequest(budget=BUDGET)
    manifest = built(measurement, request)
    audit(manifest, measurement, request)
    with pytest.raises(InvalidRequestError):
        audit(changed(manifest, change), measurement, request)


def test_what_is_worse_than_the_optimum_is_not_optimal(measurement: Measurement) -> None:
    request = AllocationRequest(budget=BUDGET)
    worse = built(measurement, AllocationRequest(budget=BUDGET - 20_000))

    def pretend(document: dict[str, Any]) -> None:
        document["request"]["budget"] = document["budget_bytes"] = BUDGET

    with pytest.raises(InvalidRequestError, match="which exists"):
        audit(changed(worse, pretend), measurement, request)


@pytest.mark.parametrize(
    "request_",
    [
        AllocationRequest(min_safe=True),
        AllocationRequest(budget=BUDGET, max_low_bit_per_block=0),
        AllocationRequest(budget=BUDGET, pins={EMBEDDING: "affine4g64"}, floors={"*": 3}),
        AllocationRequest(budget=BUDGET, device="m4-16gb", context=128),
        AllocationRequest(
            budget=BUDGET, device="m4-16gb", context=128, min_tokens_per_second=1.0, joint_kv=True
        ),
        JobRequest(model="org/model", budget=BUDGET, sqnr_floor_db=0.0),
    ],
    ids=["min-safe", "low-bit", "pinned", "device", "joint-kv", "no-floor"],
)
def test_what_we_make_passes(measurement: Measurement, request_: AllocationRequest) -> None:
    points = (KvPoint(8, 1e-4, 32), KvPoint(4, 1e-2, 32))
    kv = tuple(KvCurve(layer, points) for layer in (0, 1))
    curves = replace(measurement, kv_curves=kv)
    audit(built(curves, request_), curves, request_)


def test_a_calibration_that_moved_since_is_allowed_for(measurement: Measurement) -> None:
    request = AllocationRequest(budget=BUDGET)
    cost = measurement.cost(allocate(measurement, request).formats)
    law = Calibration((cost,), (2 * cost,), (0.1,))
    manifest = built(replace(measurement, calibration=law), request)
    moved = Calibration((cost,), (2.5 * cost,), (0.1,))
    audit(manifest, replace(measurement, calibration=moved), request)
    far = Calibration((cost,), (20 * cost,), (0.1,))
    with pytest.raises(InvalidRequestError, match="predicted KL"):
        audit(manifest, replace(measurement, calibration=far), request)


def test_errors_measured_together_are_told_at_few_bits_only(measurement: Measurement) -> None:
    few = JobRequest(model="org/model", budget=90_000, sqnr_floor_db=0.0)
    audit(changed(built(measurement, few), one_module_cheaper), measurement, few)
    refused = few.model_copy(update={"relinearize": False})
    with pytest.raises(InvalidRequestError, match="kl_nats"):
        audit(changed(built(measurement, refused), one_module_cheaper), measurement, refused)
