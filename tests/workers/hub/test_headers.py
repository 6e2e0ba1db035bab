"""What is known of a Hub model before its weights are downloaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from bitbudget.app.core.errors import InvalidModelError, NotFoundError
from bitbudget.app.core.hub_id import HubId
from bitbudget.workers.hub.client import Hub
from bitbudget.workers.hub.headers import FIRST_READ_BYTES, read_remote_headers
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.opening import checkpoint_from_headers
from tests.support.shards import in_three_shards
from tests.workers.hub.hub_server import Fault, HubServer

ID = HubId("org/name")


def _safetensors(header: Mapping[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_the_inventory_costs_few_bytes_and_is_that_of_the_files(
    server: HubServer, hub: Hub, sample_model: Path
) -> None:
    server.repository("org/name").put_folder(sample_model)
    known = read_remote_headers(hub, hub.resolve(ID))
    remote = checkpoint_from_headers(str(ID), known.model.commit, known.config, known.files)
    local = open_checkpoint(sample_model)
    assert build_inventory(remote) == build_inventory(local)
    assert known.digest == local.identity().digest
    assert server.bytes_sent < 300_000


def test_shards_are_read_one_by_one(
    server: HubServer, hub: Hub, sample_model: Path, tmp_path: Path
) -> None:
    folder = in_three_shards(sample_model, tmp_path / "sharded")
    server.repository("org/name").put_folder(folder)
    known = read_remote_headers(hub, hub.resolve(ID))
    local = open_checkpoint(folder)
    assert {t.name for file in known.files for t in file.tensors} == set(local.weights())
    assert known.digest == local.identity().digest


def test_a_header_beyond_the_first_read_takes_a_second_one(server: HubServer, hub: Hub) -> None:
    names = {
        f"tensor.{index:05d}": {"dtype": "U8", "shape": [1], "data_offsets": [index, index + 1]}
        for index in range(2000)
    }
    content = _safetensors(names, bytes(2000))
    assert len(content) > FIRST_READ_BYTES + 2000
    server.repository("org/name").put({"model.safetensors": content, "config.json": b"{}"})
    known = read_remote_headers(hub, hub.resolve(ID))
    assert len(known.files[0].tensors) == 2000
    ranges = [r.range for r in server.requests if r.origin == "cdn"]
    assert ranges == ["bytes=0-65535", f"bytes=65536-{len(content) - 2001}"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pytorch_model.bin": b"\x80\x02"}, "pickled weights only"),
        ({"README.md": b""}, "no weight file"),
        ({"model.safetensors": b"\xff" * 64}, "header length"),
        ({"model.safetensors": b"\x10"}, "header length"),
        ({"model.safetensors": (99).to_bytes(8, "little") + b"{}"}, "truncated"),
        ({"model.safetensors": (2).to_bytes(8, "little") + b"[]"}, "type list"),
    ],
)
def test_weights_that_are_not_safetensors_are_refused(
    server: HubServer, hub: Hub, files: dict[str, bytes], words: str
) -> None:
    server.repository("org/name").put(files | {"config.json": b"{}"})
    with pytest.raises(InvalidModelError, match=words):
        read_remote_headers(hub, hub.resolve(ID))


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b"[" * 100_000, b"\xff\xfe"])
def test_a_configuration_that_is_no_object_is_refused(
    server: HubServer, hub: Hub, config: bytes
) -> None:
    weights = _safetensors({})
    server.repository("org/name").put({"model.safetensors": weights, "config.json": config})
    with pytest.raises(InvalidModelError, match=r"config\.json"):
        read_remote_headers(hub, hub.resolve(ID))


def test_a_configuration_that_was_changed_on_the_way_is_refused(
    server: HubServer, hub: Hub
) -> None:
    content = {"model.safetensors": _safetensors({}), "config.json": b'{"a": 12}'}
    server.repository("org/name").put(content)
    server.faults.append(Fault(r"config\.json", times=9, corrupt=True))
    digest = hashlib.sha1(b"blob 9\0" + content["config.json"], usedforsecurity=False)
    with pytest.raises(InvalidModelError, match=digest.hexdigest()):
        read_remote_headers(hub, hub.resolve(ID))


def test_a_repository_without_configuration_is_not_found(server: HubServer, hub: Hub) -> None:
    server.repository("org/name").put({"model.safetensors": _safetensors({})})
    with pytest.raises(NotFoundError, match=r"config\.json"):
        read_remote_headers(hub, hub.resolve(ID))
