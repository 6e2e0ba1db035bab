from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import bitbudget.app.core.manifest
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from tests.app.cli.conftest import build_manifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@pytest.fixture
def schema() -> dict[str, Any]:
    file = Path(bitbudget.app.core.manifest.__file__).with_name("manifest.schema.json")
    return dict(json.loads(file.read_bytes()))


def test_the_committed_schema_is_the_models_own(schema: dict[str, Any]) -> None:
    made = Manifest.model_json_schema(mode="serialization")
    assert schema == {"$schema": DIALECT, "$id": "urn:bitbudget:manifest:1", **made}


def test_a_manifest_is_valid_and_a_changed_one_is_not(
    schema: dict[str, Any], measurement: Measurement
) -> None:
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads(build_manifest(measurement, "affine4g64").to_bytes())
    validator.validate(document)
    changes: tuple[dict[str, Any], ...] = (
        {"budget_bytes": "many"},
        {"schema_version": 2},
        {"modules": []},
    )
    for wrong in changes:
        assert not validator.is_valid({**document, **wrong})
