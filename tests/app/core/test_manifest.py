from __future__ import annotations

import json

import pytest

from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import MAX_MANIFEST_BYTES, Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest, JobRequest


@pytest.fixture
def manifest(measurement: Measurement) -> Manifest:
    layout = plan_checkpoint(measurement.inventory)
    chosen = parse_format("affine4g32")
    formats = {
        module.path: chosen if chosen in module.legal_formats() else KEEP
        for module in measurement.inventory.modules
    }
    file_bytes = layout.file_bytes(formats)
    allocation = Allocation(
        formats, file_bytes, file_bytes + 7, 0.5, 0.4, 0.2, 1e-9, "optimal", "x"
    )
    request = JobRequest(model="org/model", budget=file_bytes + 7)
    return Manifest.build(measurement, layout, request, allocation)


def test_the_bytes_are_canonical(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data).to_bytes() == data
    assert (
        data
        == json.dumps(
            json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()
    )
    assert len(manifest.sha256) == 64


def test_the_request_is_the_allocation_part_only(manifest: Manifest) -> None:
    assert type(manifest.request) is AllocationRequest


def test_module_bytes_and_fixed_bytes_add_up(manifest: Manifest, measurement: Measurement) -> None:
    fixed = plan_checkpoint(measurement.inventory).fixed_bytes
    assert fixed + sum(choice.bytes for choice in manifest.modules.values()) == manifest.file_bytes


def test_quantization_names_every_quantized_path_with_its_mode(manifest: Manifest) -> None:
    config = manifest.quantization_config()
    assert config["model.embed_tokens"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert "model.layers.0.mlp.down_proj" not in config


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: d.pop("model"), "model"),
        (lambda d: d.update(budget_bytes="many"), "budget_bytes"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d["modules"]["model.embed_tokens"].update(format="affine9g9"), "format"),
        (lambda d: d.update(schema_version=99), "schema_version"),
    ],
)
def test_what_is_wrong_is_named(manifest: Manifest, damage: object, named: str) -> None:
    document = json.loads(manifest.to_bytes())
    assert callable(damage)
    damage(document)
    with pytest.raises(InvalidRequestError, match=named):
        Manifest.from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"a":', b" " * (MAX_MANIFEST_BYTES + 1)])
def test_hostile_documents_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        Manifest.from_bytes(data)
