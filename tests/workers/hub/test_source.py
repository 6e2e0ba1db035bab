"""Checkpoints from the Hub are what the same files in a folder are."""

from __future__ import annotations

import json
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.core.errors import (
    AlreadyQuantizedError,
    HubUnavailableError,
    InvalidRequestError,
)
from bitbudget.app.core.hub_id import HubId
from bitbudget.workers.hub.client import Hub
from bitbudget.workers.hub.source import open_remote, open_remote_headers
from bitbudget.workers.models import build_inventory, open_checkpoint
from tests.support.shards import in_three_shards
from tests.workers.hub.hub_server import HubServer
from tests.workers.models.test_packed import OTHERS, repack
from tests.workers.models.tiny import write_tiny

ID = HubId("org/name")


@pytest.fixture
def sharded(sample_model: Path, tmp_path: Path) -> Path:
    return in_three_shards(sample_model, tmp_path / "sharded")


def test_headers_give_the_identity_and_the_inventory(
    server: HubServer, hub: Hub, sample_model: Path
) -> None:
    commit = server.repository("org/name").put_folder(sample_model)
    remote, local = open_remote_headers(hub, ID), open_checkpoint(sample_model)
    assert build_inventory(remote) == build_inventory(local)
    assert remote.identity().digest == local.identity().digest
    assert (remote.name, remote.revision) == ("org/name", commit)


def test_a_whole_model_is_that_of_the_folder(
    server: HubServer, hub: Hub, sharded: Path, tmp_path: Path
) -> None:
    (sharded / "evil.py").write_text("import os")
    server.repository("org/name").put_folder(sharded)
    remote, local = open_remote(hub, ID, tmp_path), open_checkpoint(sharded)
    assert remote.identity().digest == local.identity().digest
    assert open_checkpoint(remote.folder).identity().digest == remote.digest
    assert not (remote.folder / "evil.py").exists()
    weights, expected = remote.weights(), local.weights()
    assert weights.keys() == expected.keys()
    assert all(mx.array_equal(weights[name], expected[name]) for name in expected)


def test_module_by_module_a_fraction_of_the_disk_is_enough(
    server: HubServer, hub: Hub, sharded: Path, tmp_path: Path
) -> None:
    server.repository("org/name").put_folder(sharded)
    sizes = [path.stat().st_size for path in sharded.glob("*.safetensors")]
    limit = max(sizes) + 1
    assert limit < sum(sizes)
    remote = open_remote(hub, ID, tmp_path, disk_limit_bytes=limit)
    local = open_checkpoint(sharded)
    inventory = build_inventory(remote)
    assert inventory == build_inventory(local)
    for module in inventory.modules:
        for ours, theirs in zip(remote.parts(module.path), local.parts(module.path), strict=True):
            assert np.array_equal(ours, theirs)
        present = sum(path.stat().st_size for path in remote.folder.glob("*.safetensors"))
        assert present <= limit
    with pytest.raises(InvalidRequestError, match="disk-limit"):
        remote.model()


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_norms_are_known_with_any_room_on_the_disk(
    server: HubServer, hub: Hub, sharded: Path, tmp_path: Path, share: float
) -> None:
    server.repository("org/name").put_folder(sharded)
    nbytes = sum(path.stat().st_size for path in sharded.glob("*.safetensors"))
    remote = open_remote(hub, ID, tmp_path, disk_limit_bytes=int(share * nbytes))
    before = server.bytes_sent
    found, expected = remote.norm_gains, open_checkpoint(sharded).norm_gains
    assert server.bytes_sent - before < 50_000
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], expected[path]) for path in expected)


def test_a_step_that_needs_everything_is_refused_before_any_download(
    server: HubServer, hub: Hub, sharded: Path, tmp_path: Path
) -> None:
    server.repository("org/name").put_folder(sharded)
    with pytest.raises(InvalidRequestError, match="all weights"):
        open_remote(hub, ID, tmp_path, disk_limit_bytes=9_000_000, whole=True)
    assert server.bytes_sent < 300_000


def test_a_model_that_is_quantized_already_is_refused_before_any_download(
    server: HubServer, hub: Hub, sample_model: Path, tmp_path: Path
) -> None:
    repository = server.repository("org/name")
    repository.put_folder(sample_model)
    packed = tmp_path / "packed.safetensors"
    mx.save_safetensors(str(packed), {"a.qweight": mx.zeros((8, 8), mx.uint32)})
    repository.put({"model-extra.safetensors": packed.read_bytes()})
    with pytest.raises(AlreadyQuantizedError, match=r"packed by AWQ \(a\.qweight"):
        open_remote(hub, ID, tmp_path)
    assert server.bytes_sent < 300_000


def test_an_id_and_a_folder_are_read_alike(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    """Tagged floats, names of transformers 5, a stale index and a head of its own, from both."""
    folder = write_tiny(tmp_path / "model", "llama", tie_word_embeddings=False)
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"], config["rope_theta"]
    config |= {
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        "limit": {"__float__": "Infinity"},
        "quantization_config": {"quant_method": "gptq"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    server.repository("org/name").put_folder(folder)
    remote, local = open_remote_headers(hub, ID), open_checkpoint(folder)
    assert remote.config == local.config
    assert remote.config["limit"] == float("inf")
    assert remote.config["rope_theta"] == 5e5
    assert remote.config["tie_word_embeddings"] is False
    assert build_inventory(remote) == build_inventory(local)


def test_a_hub_that_does_not_answer_is_told_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(HubUnavailableError, match="check the network"):
        open_remote_headers(Hub("http://127.0.0.1:9"), ID)
    assert time.monotonic() - began < 20, "attempts as after a passing failure take over 30 s"


def test_a_packed_model_is_as_its_folder(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    pack, quantization, found = OTHERS["pack-4"]
    folder = write_tiny(tmp_path / "m", "llama")
    repack(folder, pack, quantization)
    server.repository("org/name").put_folder(folder)
    with pytest.raises(AlreadyQuantizedError, match=found):
        open_remote_headers(hub, ID)
    local = open_checkpoint(folder, allow_quantized_source=True)
    headers = open_remote_headers(hub, ID, allow_quantized_source=True)
    assert build_inventory(headers) == build_inventory(local)
    weights = open_remote(hub, ID, tmp_path / "home", allow_quantized_source=True).weights()
    assert all(mx.array_equal(weights[name], array) for name, array in local.weights().items())


def test_a_gguf_repository_is_named(server: HubServer, hub: Hub) -> None:
    server.repository("org/name").put({"tiny-Q4_K_M.gguf": b"GGUF"})
    with pytest.raises(AlreadyQuantizedError, match="packed as GGUF"):
        open_remote_headers(hub, ID, allow_quantized_source=True)


def test_files_beside_the_weights_count_for_the_disk_limit(
    server: HubServer, hub: Hub, sharded: Path, tmp_path: Path
) -> None:
    (sharded / "huge.json").write_bytes(b" " * 8_000_000)
    server.repository("org/name").put_folder(sharded)
    before = server.bytes_sent
    with pytest.raises(InvalidRequestError, match="beside the weights"):
        open_remote(hub, ID, tmp_path, disk_limit_bytes=6_000_000)
    assert server.bytes_sent - before < 1_000_000
