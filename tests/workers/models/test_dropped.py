"""Tensors that a class of mlx-lm drops without a word are told."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from bitbudget.workers.models import build_inventory, open_checkpoint
from tests.workers.models.tiny import CONFIGS, stored_weights, write_tiny


def with_tensors(folder: Path, extra: dict[str, mx.array]) -> Path:
    weights = stored_weights(folder) | extra
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("qwen3_next", "mtp.layers.N.mlp.gate.weight"),
        ("deepseek_v3", "model.layers.61.mlp.gate.e_score_correction_bias"),
        ("llama", "vision_tower.blocks.N.fc.weight"),
        ("gemma3", "vision_tower.encoder.layers.N.fc.weight"),
        ("ernie4_5_moe", "model.layers.N.mlp.moe_statics.e_score_correction_bias"),
    ],
)
def test_a_dropped_tensor_is_named(model_type: str, name: str, tmp_path: Path) -> None:
    changes = {} if model_type in CONFIGS else CONFIGS["qwen3_moe"] | ERNIE
    folder = write_tiny(tmp_path / "m", model_type, **changes)
    extra = {name.replace(".N.", f".{layer}."): mx.zeros((4,)) for layer in range(2)}
    notes = build_inventory(open_checkpoint(with_tensors(folder, extra))).notes
    kind = name.replace(".61.", ".N.")
    count = "1 tensor is" if len(extra) == 1 else "2 tensors are"
    assert notes == (f"{count} left out, for which mlx-lm's class has no use: {kind}",)


ERNIE = {
    "use_bias": False,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_layer_start_index": 1,
    "moe_layer_interval": 1,
    "moe_num_shared_experts": 1,
}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_model_of_parameters_alone_has_nothing_to_tell(model_type: str, tmp_path: Path) -> None:
    assert not open_checkpoint(write_tiny(tmp_path / "m", model_type)).dropped
