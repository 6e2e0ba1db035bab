"""Weights are known by their content, a model by what its folder is called."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.own_name import OwnName, own_name
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.pipeline.steps.quantize import check_same_model
from tests.workers.models.tiny import write_tiny
from tests.workers.quantize.manifests import manifest_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def copied_over(folder: Path) -> None:
    """Put other weights in place, with size and time of the first: `cp -p`, `rsync -t`."""
    weights = folder / "model.safetensors"
    times = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-2:] = b"\x3f\x3f"
    with weights.open("r+b") as file:
        file.write(data)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "gpt2"])
def test_a_second_revision_of_the_same_size_and_time_is_another(
    model_type: str, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    checkpoint = open_checkpoint(folder)
    first = checkpoint.identity(tmp_path / "digests").digest
    assert open_checkpoint(folder).identity(tmp_path / "digests").digest == first
    inventory = build_inventory(checkpoint)
    kept = {module.path: KEEP for module in inventory.modules}
    manifest = manifest_of(checkpoint, inventory, kept)
    copied_over(folder)
    assert open_checkpoint(folder).identity(tmp_path / "digests").digest != first
    with pytest.raises(ConflictError, match="these weights have"):
        check_same_model(open_checkpoint(folder), manifest)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("models/tiny", OwnName("tiny", "local")),
        (f"hub/models--org--name/snapshots/{COMMIT}", OwnName("org/name", COMMIT)),
        ("hub/models--org--a--b/snapshots/main", OwnName("org/a--b", "local")),
    ],
)
def test_the_name_is_that_of_the_folder(path: str, name: OwnName, tmp_path: Path) -> None:
    folder = tmp_path / path
    folder.mkdir(parents=True)
    assert own_name(folder) == name


def test_a_link_is_called_as_it_was_given(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (tmp_path / "mine").symlink_to(snapshot)
    assert own_name(tmp_path / "mine") == OwnName("org/name", COMMIT)
    (tmp_path / "plain").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    assert own_name(tmp_path / "link") == OwnName("link", "local")


def test_two_folders_of_the_same_weights_have_each_their_own_name(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "secret-project", "llama")
    shutil.copytree(first, tmp_path / "public")
    cache = tmp_path / "digests"
    mine = open_checkpoint(first).identity(cache)
    other = open_checkpoint(tmp_path / "public").identity(cache)
    assert mine.digest == other.digest
    assert (mine.name, other.name) == ("secret-project", "public")
