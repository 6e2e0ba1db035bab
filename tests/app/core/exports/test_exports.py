"""Recipes for other quantizers say each module's format, and what becomes of what they lack."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.cli.gguf_names import gguf_names
from bitbudget.app.core.errors import BitbudgetError, ConflictError, UnsupportedModelError
from bitbudget.app.core.exports import auto_round_recipe, llama_cpp_recipe, mlx_lm_recipe
from bitbudget.app.core.exports.llama_cpp import nearest_type
from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers.files.headers import read_header
from bitbudget.workers.models import build_inventory, open_checkpoint
from tests.workers.models.tiny import write_tiny
from tests.workers.quantize.manifests import manifest_of, random_formats

TYPES = ["llama", "qwen3_moe", "gemma2"]


def made(folder: Path, model_type: str) -> tuple[Manifest, Inventory]:
    checkpoint = open_checkpoint(write_tiny(folder, model_type))
    inventory = build_inventory(checkpoint)
    return manifest_of(checkpoint, inventory, random_formats(inventory, 5)), inventory


@pytest.mark.parametrize("model_type", TYPES)
def test_stock_mlx_lm_makes_exactly_the_manifest_of_the_predicate(
    model_type: str, sample_model: Path, tmp_path: Path
) -> None:
    manifest, inventory = made(tmp_path / "m", model_type)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, tmp_path / "m")
    recipe = mlx_lm_recipe(manifest)
    scope: dict[str, Any] = {
        "mlx_lm": importlib.import_module("mlx_lm"),
        "predicate": json.loads(recipe.text),
        "MODEL": str(tmp_path / "m"),
        "OUT": str(tmp_path / "out"),
    }
    exec(recipe.usage, scope)  # noqa: S102, what is printed is meant to be run
    stored = {
        tensor.name: tensor.nbytes
        for path in (tmp_path / "out").glob("*.safetensors")
        for tensor in read_header(path).tensors
    }
    formats = manifest.formats
    files = plan_checkpoint(inventory).files(formats)
    assert stored == {array.name: array.nbytes for file in files for array in file.arrays}
    assert not recipe.changes


@pytest.mark.parametrize("model_type", TYPES)
def test_each_module_has_its_line_for_llama_cpp(model_type: str, tmp_path: Path) -> None:
    manifest, inventory = made(tmp_path / "m", model_type)
    recipe = llama_cpp_recipe(manifest, inventory, lambda path: f"{path}.weight")
    lines = dict(line.rsplit("=", 1) for line in recipe.text.split())
    for path, choice in manifest.modules.items():
        name = rf"^{path}.weight$".replace(".", r"\.")
        expected = nearest_type(choice.format, inventory.module(path).in_features)
        assert lines[name] == expected.name
    there = sum(change.bytes_there for change in recipe.changes)
    kept = {change.path for change in recipe.changes}
    same = sum(
        nearest_type(choice.format, inventory.module(path).in_features).data_bytes(
            inventory.module(path).shape
        )
        for path, choice in manifest.modules.items()
        if path not in kept
    )
    assert recipe.bytes_there == there + same


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("affine2g64", 512, "q2_K"),
        ("affine2g64", 96, "q4_0"),
        ("affine4g32", 256, "q4_K"),
        ("affine5g64", 96, "q5_0"),
        ("affine6g64", 320, "q8_0"),
        ("affine8g128", 256, "q8_0"),
        ("mxfp4", 96, "mxfp4"),
        ("mxfp8", 96, "q8_0"),
        ("nvfp4", 256, "q4_K"),
        ("keep", 100, "bf16"),
    ],
)
def test_the_nearest_type_has_as_many_bits_or_more(name: str, width: int, expected: str) -> None:
    format_ = KEEP if name == "keep" else parse_format(name)
    found = nearest_type(format_, width)
    assert found.name == expected
    assert 8 * found.nbytes / found.block >= (16 if format_ == KEEP else format_.bits)
    assert width % found.block == 0


@pytest.mark.parametrize("model_type", TYPES)
def test_auto_round_gets_schemes_that_it_packs(model_type: str, tmp_path: Path) -> None:
    manifest, inventory = made(tmp_path / "m", model_type)
    recipe = auto_round_recipe(manifest, inventory)
    layers = json.loads(recipe.text)
    assert {scheme["bits"] for scheme in layers.values()} <= {2, 3, 4, 8, 16}
    assert "model.embed_tokens" not in layers
    experts = [name for name in layers if ".experts." in name]
    assert len(experts) == (2 * 3 * 4 if model_type == "qwen3_moe" else 0)
    for change in recipe.changes:
        assert change.bytes_there > change.bytes_here or "keep" in change.stored_as
    changed = [c for c in recipe.changes if parse_format(c.format).bits in (5, 6)]
    assert all(change.stored_as.startswith(("affine8", "keep")) for change in changed)
    notes = list(recipe.notes(manifest))
    assert len({(c.format, c.stored_as) for c in recipe.changes}) == sum(
        "stores" in n for n in notes
    )


def test_more_bytes_than_the_budget_are_told(tmp_path: Path) -> None:
    manifest, inventory = made(tmp_path / "m", "llama")
    recipe = auto_round_recipe(manifest, inventory)
    over = recipe.bytes_there - manifest.budget_bytes
    assert over > 0
    assert f"{over:,} more than the budget" in list(recipe.notes(manifest))[-1]


def test_what_a_target_cannot_hold_is_refused(tmp_path: Path) -> None:
    manifest, inventory = made(tmp_path / "m", "mixtral")
    with pytest.raises(UnsupportedModelError, match="experts of"):
        auto_round_recipe(manifest, inventory)
    rotated = manifest.model_copy(update={"rotation": "folded"})
    with pytest.raises(ConflictError, match="rotation 'folded'"):
        mlx_lm_recipe(rotated)
    with pytest.raises(ConflictError, match="rotation 'folded'"):
        auto_round_recipe(rotated, inventory)
    with pytest.raises(ConflictError, match="rotation 'folded'"):
        llama_cpp_recipe(rotated, inventory, str)


@pytest.mark.parametrize(
    ("model_type", "path", "expected"),
    [
        ("llama", "model.layers.1.self_attn.q_proj", "blk.1.attn_q.weight"),
        ("qwen3_moe", "model.layers.0.mlp.switch_mlp.down_proj", "blk.0.ffn_down_exps.weight"),
        (
            "mixtral",
            "model.layers.1.block_sparse_moe.switch_mlp.up_proj",
            "blk.1.ffn_up_exps.weight",
        ),
        ("gemma2", "model.embed_tokens", "token_embd.weight"),
        ("olmo3", "", "no architecture"),
    ],
)
def test_tensors_are_called_as_llama_cpp_does(
    model_type: str, path: str, expected: str, tmp_path: Path
) -> None:
    _, inventory = made(tmp_path / "m", model_type)
    if importlib.util.find_spec("gguf") is None:
        with pytest.raises(BitbudgetError, match=r"\[gguf\]"):
            gguf_names(inventory.architecture)
    elif not path:
        with pytest.raises(UnsupportedModelError, match=expected):
            gguf_names(inventory.architecture)
    else:
        names = gguf_names(inventory.architecture)
        assert names(path) == expected
        with pytest.raises(UnsupportedModelError, match=r"no tensor for model\.unheard"):
            names("model.unheard")
