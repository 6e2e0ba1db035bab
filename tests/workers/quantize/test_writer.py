"""Checkpoints against stock mlx-lm, interruptions and the ways a disk can refuse."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

from bitbudget.app.core.errors import ConflictError, InvalidModelError, InvalidRequestError
from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.registry import encode
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.models.arrays import numpy_of
from bitbudget.workers.quantize import write_checkpoint
from bitbudget.workers.quantize.draft import clear_published
from tests.workers.models.tiny import write_folder, write_tiny
from tests.workers.quantize.manifests import manifest_of, random_formats


def ignore(done: int, total: int, path: str) -> None:
    del done, total, path


def opened(folder: Path) -> tuple[Checkpoint, Inventory]:
    checkpoint = open_checkpoint(folder)
    return checkpoint, build_inventory(checkpoint)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def stock_weights(folder: Path) -> dict[str, mx.array]:
    """Load with stock mlx-lm, strictly, and return the weights."""
    flat = importlib.import_module("mlx.utils").tree_flatten
    model, _ = importlib.import_module("mlx_lm.utils").load_model(folder)
    return dict(flat(model.parameters()))


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe", "deepseek_v3", "qwen3_5", "gpt_oss"])
@pytest.mark.parametrize("seed", [0, 1])
def test_stock_mlx_lm_loads_every_array(model_type: str, seed: int, tmp_path: Path) -> None:
    checkpoint, inventory = opened(write_tiny(tmp_path / "source", model_type))
    formats = random_formats(inventory, seed)
    manifest = manifest_of(checkpoint, inventory, formats)
    written = write_checkpoint(checkpoint, inventory, manifest, tmp_path / "out", progress=ignore)
    sizes = [path.stat().st_size for path in written.folder.glob("*.safetensors")]
    assert sum(sizes) == written.file_bytes == manifest.file_bytes

    found = stock_weights(written.folder)
    source = checkpoint.weights()
    for module in inventory.modules:
        weight = numpy_of(source[f"{module.path}.weight"])
        arrays = encode(weight, module.dtype, formats[module.path], Encoder.MINMAX)
        for suffix, array in arrays.items():
            assert numpy_of(found.pop(f"{module.path}.{suffix}")).tobytes() == array.tobytes()
    assert set(found) == {array.name for array in inventory.passthrough}
    for name, kept in found.items():
        assert numpy_of(kept).tobytes() == numpy_of(source[name]).tobytes()


@pytest.mark.parametrize(
    "name", ["tinyqwen3-moe", "stories260K-llama", "babyllama105-llama", "tinyqwen3-dense"]
)
def test_stock_mlx_lm_generates(name: str, fixtures_dir: Path, tmp_path: Path) -> None:
    checkpoint, inventory = opened(fixtures_dir / name)
    formats = {
        module.path: next(
            format_
            for format_ in (parse_format("affine6g64"), parse_format("affine6g32"), KEEP)
            if format_ in module.legal_formats() or format_ == KEEP
        )
        for module in inventory.modules
    }
    manifest = manifest_of(checkpoint, inventory, formats, Encoder.CAREFUL)
    write_checkpoint(checkpoint, inventory, manifest, tmp_path / "out", progress=ignore)
    mlx_lm = importlib.import_module("mlx_lm")
    model, tokenizer = mlx_lm.load(str(tmp_path / "out"))
    if inventory.architecture.experts:
        model.set_dtype(mx.float32)
    text = mlx_lm.generate(model, tokenizer, prompt="Once upon a time", max_tokens=8)
    assert "there" in text


class Stop(Exception):  # noqa: N818, not an error
    """Ends a run in its middle."""


def test_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    checkpoint, inventory = opened(write_tiny(tmp_path / "source", "qwen3_moe"))
    manifest = manifest_of(checkpoint, inventory, random_formats(inventory, 3))
    whole = tmp_path / "whole"
    write_checkpoint(checkpoint, inventory, manifest, whole, progress=ignore)

    encoded: list[str] = []

    def encode_part(
        module: Module, _: int, weight: npt.NDArray[Any], format_: Format
    ) -> dict[str, npt.NDArray[Any]]:
        encoded.append(module.path)
        return encode(weight, module.dtype, format_, Encoder.MINMAX)

    calls = 0

    def stop_often(done: int, total: int, path: str) -> None:
        nonlocal calls
        del done, total, path
        calls += 1
        if calls % 7 == 0:
            raise Stop

    output = tmp_path / "out"
    interruptions = 0
    while not output.exists():
        calls = 0
        try:
            write_checkpoint(
                checkpoint,
                inventory,
                manifest,
                output,
                progress=stop_often if interruptions < 2 else ignore,
                encode_part=encode_part,
            )
        except Stop:
            interruptions += 1
            assert not output.exists()
    assert interruptions == 2
    experts = [path for path in encoded if ".switch_mlp." not in path]
    assert len(experts) == len(set(experts))
    assert digests(output) == digests(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source", "whole"]


def test_starts_anew_for_another_manifest(tmp_path: Path) -> None:
    checkpoint, inventory = opened(write_tiny(tmp_path / "source", "llama"))
    first = manifest_of(checkpoint, inventory, random_formats(inventory, 1))
    second = manifest_of(checkpoint, inventory, random_formats(inventory, 2))

    def stop(done: int, total: int, path: str) -> None:
        del path
        if done > total / 2:
            raise Stop

    with pytest.raises(Stop):
        write_checkpoint(checkpoint, inventory, first, tmp_path / "out", progress=stop)
    write_checkpoint(checkpoint, inventory, second, tmp_path / "out", progress=ignore)
    write_checkpoint(checkpoint, inventory, second, tmp_path / "again", progress=ignore)
    assert digests(tmp_path / "out") == digests(tmp_path / "again")


def test_clears_what_a_writer_left_that_died_after_its_rename(tmp_path: Path) -> None:
    published, resumable, held = (tmp_path / f".{name}.partial" for name in "abc")
    for folder in (published, resumable, held):
        folder.mkdir()
        (folder / "journal").write_text("key\n")
        (folder / "lock").touch()
    (resumable / "checkpoint").mkdir()
    with (held / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clear_published(tmp_path)
    assert sorted(tmp_path.iterdir()) == [resumable, held]


def test_never_overwrites(tmp_path: Path) -> None:
    checkpoint, inventory = opened(write_tiny(tmp_path / "source", "llama"))
    manifest = manifest_of(checkpoint, inventory, random_formats(inventory, 1))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match="exists already"):
        write_checkpoint(checkpoint, inventory, manifest, tmp_path / "out", progress=ignore)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_two_writers_of_one_output_are_told_apart(tmp_path: Path) -> None:
    checkpoint, inventory = opened(write_tiny(tmp_path / "source", "llama"))
    manifest = manifest_of(checkpoint, inventory, random_formats(inventory, 1))
    output = tmp_path / "out"

    def write_again(done: int, total: int, path: str) -> None:
        del done, total, path
        with pytest.raises(ConflictError, match="another process"):
            write_checkpoint(checkpoint, inventory, manifest, output, progress=ignore)

    write_checkpoint(checkpoint, inventory, manifest, output, progress=write_again)
    assert output.is_dir()


def test_refuses_a_manifest_of_another_model(tmp_path: Path) -> None:
    llama, llama_inventory = opened(write_tiny(tmp_path / "llama", "llama"))
    phi, phi_inventory = opened(write_tiny(tmp_path / "phi", "phi3"))
    manifest = manifest_of(phi, phi_inventory, random_formats(phi_inventory, 1))
    with pytest.raises(InvalidRequestError, match="allocate for this model"):
        write_checkpoint(llama, llama_inventory, manifest, tmp_path / "out", progress=ignore)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj", "model.norm"])
def test_names_what_is_not_finite(value: float, name: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "source", "llama")
    config = json.loads((folder / "config.json").read_text())
    weights = dict(mx.load(str(folder / "model.safetensors")))  # type: ignore[arg-type]
    odd = weights[f"{name}.weight"].astype(mx.float32)
    odd[..., 3] = value
    weights[f"{name}.weight"] = odd.astype(mx.bfloat16)
    checkpoint, inventory = opened(write_folder(tmp_path / "odd", config, weights))
    manifest = manifest_of(checkpoint, inventory, random_formats(inventory, 1))
    with pytest.raises(InvalidModelError, match=name):
        write_checkpoint(checkpoint, inventory, manifest, tmp_path / "out", progress=ignore)
    assert not (tmp_path / "out").exists()


FULL_DISK = """
import resource, sys
from pathlib import Path
from bitbudget.app.core.errors import DiskFullError
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.quantize import write_checkpoint

source, manifest, output = map(Path, sys.argv[1:])
checkpoint = open_checkpoint(source)
inventory = build_inventory(checkpoint)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    write_checkpoint(
        checkpoint, inventory, Manifest.from_bytes(manifest.read_bytes()), output,
        progress=lambda *_: None,
    )
except DiskFullError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "source", "llama")
    checkpoint, inventory = opened(folder)
    manifest = manifest_of(checkpoint, inventory, random_formats(inventory, 1))
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    arguments = [str(folder), str(tmp_path / "manifest.json"), str(tmp_path / "out")]
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, check=True
    )
    assert f"no room for {manifest.file_bytes} bytes" in ended.stdout
    assert not (tmp_path / "out").exists()
    write_checkpoint(checkpoint, inventory, manifest, tmp_path / "out", progress=ignore)
    shutil.rmtree(tmp_path / "out")


def test_config_names_every_quantized_path(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "source", "gemma3", vision_config={"hidden_size": 8})
    checkpoint, inventory = opened(folder)
    formats = random_formats(inventory, 5)
    manifest = manifest_of(checkpoint, inventory, formats)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "evil.py").write_text("raise SystemExit")
    written = write_checkpoint(checkpoint, inventory, manifest, tmp_path / "out", progress=ignore)
    names = {path.name for path in written.folder.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer_config.json",
    }
    config = json.loads((written.folder / "config.json").read_text())
    assert "vision_config" not in config
    assert config["quantization"] == config["quantization_config"]
    named = {path: value for path, value in config["quantization"].items() if "." in path}
    assert named == {
        path: {"bits": f.bits, "group_size": f.group_size, "mode": f.mode.value}
        for path, f in formats.items()
        if f != KEEP
    }
    index = json.loads((written.folder / "model.safetensors.index.json").read_text())
    stored = dict(mx.load(str(written.folder / "model.safetensors")))  # type: ignore[arg-type]
    assert index["weight_map"].keys() == stored.keys()
    card = (written.folder / "README.md").read_text()
    assert manifest.sha256 in card
    assert str(manifest.file_bytes) in card
