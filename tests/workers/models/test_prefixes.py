"""Tensors under another prefix, extra towers, and fields under another name."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from bitbudget.app.core.errors import BitbudgetError, UnsupportedModelError
from bitbudget.workers.files.synonyms import sliding_pattern
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.arrays import numpy_of
from bitbudget.workers.running.float32 import load_float32
from tests.workers.models.tiny import stored_weights, write_tiny


def renamed(folder: Path, old: str, new: str, **extra: mx.array) -> None:
    weights = {
        new + name.removeprefix(old) if name.startswith(old) else name: array
        for name, array in stored_weights(folder).items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights | extra)


@pytest.mark.parametrize(
    ("model_type", "old", "new"),
    [
        ("gemma3_text", "", "language_model."),
        ("gemma3_text", "model.", "model.language_model."),
        ("llama", "model.", ""),
        ("llama", "model.", "model.language_model."),
        ("qwen3", "", "language_model."),
        ("qwen3_moe", "model.", ""),
    ],
)
def test_a_prefix_is_no_fault(model_type: str, old: str, new: str, tmp_path: Path) -> None:
    plain = write_tiny(tmp_path / "plain", model_type)
    other = write_tiny(tmp_path / "other", model_type)
    renamed(other, old, new)
    checkpoint = open_checkpoint(other)
    inventory = build_inventory(checkpoint)
    assert inventory == build_inventory(open_checkpoint(plain))
    tokens = mx.arange(9)[None]
    assert mx.array_equal(load_float32(other)(tokens), load_float32(plain)(tokens))
    source = open_checkpoint(plain).weights()
    for module in inventory.modules:
        first = next(iter(checkpoint.parts(module.path)))
        whole = numpy_of(source[f"{module.path}.weight"])
        assert first.tobytes() == whole.reshape(-1)[: first.size].tobytes()


@pytest.mark.parametrize("model_type", ["gemma3_text", "llama", "qwen3"])
@pytest.mark.parametrize(
    "name",
    ["vision_tower.blocks.0.weight", "model.visual.merger.weight", "mtp.layers.0.mlp.weight"],
)
def test_towers_of_other_senses_are_left_out(model_type: str, name: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    whole = build_inventory(open_checkpoint(folder))
    weights = stored_weights(folder) | {name: mx.zeros((4, 4))}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    assert build_inventory(open_checkpoint(folder)) == whole


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "gpt2"])
def test_an_unknown_tensor_is_refused_by_name(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    weights = stored_weights(folder) | {"model.adapter.weight": mx.zeros((4, 4))}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(BitbudgetError, match=r"model\.adapter\.weight.*cannot load this model"):
        build_inventory(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("model_type", "name", "other"),
    [
        ("qwen3_moe", "num_experts", "num_local_experts"),
        ("gpt2", "n_ctx", "n_positions"),
        ("qwen3", "head_dim", "hidden_size"),
    ],
)
def test_a_field_under_another_name_is_read(
    model_type: str, name: str, other: str, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", model_type, head_dim=16)
    whole = build_inventory(open_checkpoint(folder))
    config = json.loads((folder / "config.json").read_text())
    assert config[other]
    del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    assert build_inventory(open_checkpoint(folder)) == whole
    assert open_checkpoint(folder).config[name]


def test_layers_in_an_order_that_the_class_cannot_have_are_refused(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert sliding_pattern(["sliding_attention", "full_attention"] * 2) == 2
    assert sliding_pattern(kinds) == 0
    folder = write_tiny(tmp_path / "m", "gemma3_text", num_hidden_layers=4, layer_types=kinds)
    with pytest.raises(UnsupportedModelError, match="layer_types"):
        open_checkpoint(folder)
