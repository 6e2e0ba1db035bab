"""Publishing a checkpoint to a server that speaks the Hub's upload API."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from bitbudget import rotated_model
from bitbudget.app.core.errors import (
    HubAccessError,
    HubUnavailableError,
    InvalidModelError,
    InvalidRequestError,
)
from bitbudget.app.core.manifest import Manifest
from bitbudget.retrying import RetryPolicy
from bitbudget.workers.hub.client import Hub
from bitbudget.workers.hub.upload import publish
from bitbudget.workers.quantize.companions import MODEL_FILE
from tests.workers.hub.hub_server import Fault, HubServer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"  # huggingface_hub sends files that way
)

WEIGHTS = b"\x02\0\0\0\0\0\0\0{}" + b"w" * 5000


@pytest.fixture
def hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return Hub(server.endpoint, "hf_writer", RetryPolicy(attempts=2, first_wait_seconds=0.01))


@pytest.fixture
def checkpoint(tmp_path: Path, manifest: Manifest) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(
        manifest.model_copy(update={"file_bytes": len(WEIGHTS)}).to_bytes()
    )
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "README.md").write_text("---\nlibrary_name: mlx\n---\n")
    (folder / "config.json").write_text("{}")
    return folder


def test_everything_arrives_in_one_commit(server: HubServer, hub: Hub, checkpoint: Path) -> None:
    for name in (".cache.json", "evil.py", "old.bin"):
        (checkpoint / name).write_text("not published")
    published = publish(hub, checkpoint, "me/small")
    repository = server.repositories["me/small"]
    files = repository.commits[published.revision]
    names = {"README.md", "config.json", "manifest.json", "model.safetensors"}
    assert {name for name in files if name != ".gitattributes"} == names
    assert files["model.safetensors"].content == WEIGHTS
    assert server.uploads.verified == [hashlib.sha256(WEIGHTS).hexdigest()]
    assert repository.messages == ["private", f"{len(WEIGHTS)} bytes by bitbudget"]
    assert published.files == len(names)
    assert all(r.authorization is None for r in server.requests if r.origin == "cdn")


def test_the_code_of_a_rotated_checkpoint_goes_along_and_no_other(
    server: HubServer, hub: Hub, checkpoint: Path
) -> None:
    shutil.copy(rotated_model.__file__, checkpoint / MODEL_FILE)
    published = publish(hub, checkpoint, "me/rotated")
    assert MODEL_FILE in server.repositories["me/rotated"].commits[published.revision]
    (checkpoint / MODEL_FILE).write_text("import os")
    published = publish(hub, checkpoint, "me/changed")
    assert MODEL_FILE not in server.repositories["me/changed"].commits[published.revision]


def test_a_second_upload_sends_no_weights(server: HubServer, hub: Hub, checkpoint: Path) -> None:
    publish(hub, checkpoint, "me/small")
    before = [r for r in server.requests if r.method == "PUT"]
    publish(hub, checkpoint, "me/small")
    assert [r for r in server.requests if r.method == "PUT"] == before != []


def test_a_failed_upload_leaves_no_commit_and_goes_on_later(
    server: HubServer, hub: Hub, checkpoint: Path
) -> None:
    server.faults.append(Fault("commit/main", times=9, status=500))
    with pytest.raises(HubUnavailableError, match="500"):
        publish(hub, checkpoint, "me/small")
    repository = server.repositories["me/small"]
    assert len(repository.commits) == 1
    server.faults.clear()
    publish(hub, checkpoint, "me/small")
    assert sum(r.method == "PUT" for r in server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_without_the_right_to_write_it_says_so(
    server: HubServer, hub: Hub, checkpoint: Path, status: int
) -> None:
    server.faults.append(Fault("repos/create", times=9, status=status))
    with pytest.raises(HubAccessError, match="HF_TOKEN"):
        publish(hub, checkpoint, "me/small")


def test_refused_bytes_are_a_clear_error(server: HubServer, hub: Hub, checkpoint: Path) -> None:
    server.faults.append(Fault("cdn PUT", times=9, status=400))
    with pytest.raises(HubUnavailableError, match="not sent twice"):
        publish(hub, checkpoint, "me/small")


@pytest.mark.parametrize("missing", ["manifest.json", "README.md", "model.safetensors"])
def test_half_a_checkpoint_is_not_published(
    server: HubServer, hub: Hub, checkpoint: Path, missing: str
) -> None:
    (checkpoint / missing).unlink()
    with pytest.raises(InvalidModelError, match="finished checkpoint"):
        publish(hub, checkpoint, "me/small")
    assert server.requests == []


def test_a_repository_name_by_pattern_only(hub: Hub, checkpoint: Path) -> None:
    with pytest.raises(InvalidRequestError, match="repository"):
        publish(hub, checkpoint, "../me")
