"""README's lines for stock `mlx_lm.convert`, run as they stand on models of ten shapes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import module_bytes, plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.recipe import STOCK_LINES, stock_recipe
from bitbudget.workers.files.headers import read_header
from bitbudget.workers.models import build_inventory, open_checkpoint
from tests.conftest import REPOSITORY
from tests.workers.models.tiny import write_tiny
from tests.workers.quantize.manifests import manifest_of, random_formats

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "widths of 96": ("llama", {"hidden_size": 96, "intermediate_size": 288}),
    "widths of 32": ("llama", {"hidden_size": 32, "intermediate_size": 96, "head_dim": 32}),
    "widths of 48": ("llama", {"hidden_size": 48, "intermediate_size": 80, "head_dim": 12}),
    "biases": ("qwen2", {"hidden_size": 160, "intermediate_size": 96}),
    "own head": ("qwen3", {"hidden_size": 96, "tie_word_embeddings": False}),
    "experts": ("qwen3_moe", {"hidden_size": 96, "moe_intermediate_size": 96}),
    "shared experts": ("deepseek", {"hidden_size": 96, "intermediate_size": 160}),
    "convolutions": ("lfm2", {}),
    "gpt2": ("gpt2", {"n_embd": 96, "n_inner": 192}),
    "gemma": ("gemma3_text", {"hidden_size": 96, "head_dim": 32}),
}


def readme_lines() -> str:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return block[1]


def run_lines(lines: str, manifest: Path, model: Path, output: Path) -> None:
    """Run the lines with the three placeholders filled in, as a reader would."""
    filled = lines.replace('"manifest.json"', repr(str(manifest)))
    filled = filled.replace('"MODEL"', repr(str(model))).replace('"OUT"', repr(str(output)))
    exec(compile(filled, "README.md", "exec"), {})  # noqa: S102, the README's own lines


def small_formats(inventory: Inventory) -> dict[str, Format]:
    """The smallest format of every module: what a tight budget makes of it."""
    return {
        module.path: min(module.legal_formats(), key=lambda format_: module_bytes(module, format_))
        for module in inventory.modules
    }


def test_apply_prints_what_the_readme_shows() -> None:
    assert readme_lines() == STOCK_LINES


@pytest.mark.parametrize("smallest", [True, False], ids=["smallest", "mixed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_formats_and_bytes_are_those_of_the_manifest(
    shape: str, *, smallest: bool, sample_model: Path, tmp_path: Path
) -> None:
    model_type, changes = SHAPES[shape]
    model = write_tiny(tmp_path / "model", model_type, **changes)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, model)
    checkpoint = open_checkpoint(model)
    inventory = build_inventory(checkpoint)
    formats = small_formats(inventory) if smallest else random_formats(inventory, 5)
    manifest = manifest_of(checkpoint, inventory, formats)
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    run_lines(readme_lines(), tmp_path / "manifest.json", model, tmp_path / "out")

    files = [read_header(path) for path in (tmp_path / "out").glob("*.safetensors")]
    stored = {tensor.name: tensor.nbytes for file in files for tensor in file.tensors}
    planned = {
        array.name: array.nbytes
        for shard in plan_checkpoint(inventory).files(formats)
        for array in shard.arrays
    }
    assert stored == planned
    assert sum(file.nbytes for file in files) <= manifest.file_bytes <= manifest.budget_bytes


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text"])
def test_settings_of_transformers_5_are_written_as_mlx_lm_reads_them(
    model_type: str, sample_model: Path, tmp_path: Path
) -> None:
    model = write_tiny(tmp_path / "model", model_type)
    config = json.loads((model / "config.json").read_text())
    theta = {"rope_type": "default", "rope_theta": 70_000.0}
    nested = {"full_attention": theta, "sliding_attention": {**theta, "rope_theta": 20_000.0}}
    config["rope_parameters"] = nested if model_type == "gemma3_text" else theta
    for old in ("rope_theta", "rope_local_base_freq"):
        config.pop(old, None)
    (model / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, model)
    checkpoint = open_checkpoint(model)
    inventory = build_inventory(checkpoint)
    manifest = manifest_of(checkpoint, inventory, small_formats(inventory))
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    run_lines(readme_lines(), tmp_path / "manifest.json", model, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_theta"] == 70_000.0
    if model_type == "gemma3_text":
        assert written["rope_local_base_freq"] == 20_000.0


def test_a_manifest_of_another_model_leaves_nothing_behind(
    sample_model: Path, tmp_path: Path
) -> None:
    small = write_tiny(tmp_path / "small", "llama")
    other = write_tiny(tmp_path / "other", "llama", hidden_size=128)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, other)
    checkpoint = open_checkpoint(small)
    inventory = build_inventory(checkpoint)
    manifest = manifest_of(checkpoint, inventory, small_formats(inventory))
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    with pytest.raises(SystemExit, match=f"{manifest.file_bytes} in the manifest"):
        run_lines(readme_lines(), tmp_path / "manifest.json", other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rotated_model_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", "llama"))
    inventory = build_inventory(checkpoint)
    kept = {module.path: KEEP for module in inventory.modules}
    manifest = manifest_of(checkpoint, inventory, kept).model_copy(update={"rotation": "fused"})
    with pytest.raises(ConflictError, match="rotation 'fused'"):
        stock_recipe(manifest, "manifest.json", "MODEL", "OUT")


def test_places_are_quoted(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", "llama"))
    inventory = build_inventory(checkpoint)
    one = dict.fromkeys((module.path for module in inventory.modules), parse_format("affine4g64"))
    manifest: Manifest = manifest_of(checkpoint, inventory, one)
    names = ('a "b".json', "it's", "new\nline")
    lines = stock_recipe(manifest, *names)
    places = next(line for line in lines.splitlines() if line.startswith("MANIFEST, MODEL, OUT"))
    found: dict[str, Any] = {}
    exec(places, found)  # noqa: S102, what is printed is meant to be run
    assert (found["MANIFEST"], found["MODEL"], found["OUT"]) == names
    assert json.loads(manifest.to_bytes())["rotation"] == "none"
