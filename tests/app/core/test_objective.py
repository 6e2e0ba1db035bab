"""Every sensitivity states the unit of what is minimised, and manifests call it by its name."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.sensitivity import KL, WEIGHT_ERROR, Sensitivity, objective_of
from tests.app.core.test_manifest_schema import schema

__all__ = ["schema"]


def manifest_by(measurement: Measurement, sensitivity: Sensitivity) -> Manifest:
    known = replace(measurement, sensitivity=sensitivity)
    layout = plan_checkpoint(known.inventory)
    request = AllocationRequest(budget=layout.fixed_bytes * 4 + 200_000)
    return Manifest.build(known, layout, request, allocate(known, request))


@pytest.mark.parametrize("sensitivity", Sensitivity)
def test_each_sensitivity_has_an_objective(sensitivity: Sensitivity) -> None:
    is_kl = sensitivity is not Sensitivity.WEIGHTS
    assert objective_of(sensitivity) is (KL if is_kl else WEIGHT_ERROR)


def test_a_manifest_by_weights_calls_nothing_kl_or_nats(
    measurement: Measurement, schema: dict[str, object]
) -> None:
    manifest = manifest_by(measurement, Sensitivity.WEIGHTS)
    document = json.loads(manifest.to_bytes())
    keys = {*document["certificate"], *next(iter(document["modules"].values()))}
    assert {"predicted_weight_error", "shadow_price_per_byte", "weight_error"} <= keys
    assert not [key for key in keys if "kl" in key.split("_") or "nats" in key]
    jsonschema.Draft202012Validator(schema).validate(document)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    by_kl = manifest_by(measurement, Sensitivity.FISHER)
    assert by_kl.certificate.predicted_kl_nats_per_token == pytest.approx(
        manifest.certificate.predicted_kl_nats_per_token
    )


def test_a_manifest_in_the_wrong_unit_is_refused(measurement: Measurement) -> None:
    document = json.loads(manifest_by(measurement, Sensitivity.WEIGHTS).to_bytes())
    for wrong in ({**document, "sensitivity": "fisher"}, {**document, "sensitivity": "probe"}):
        with pytest.raises(InvalidRequestError, match="states its predicted KL"):
            Manifest.from_bytes(json.dumps(wrong).encode())
