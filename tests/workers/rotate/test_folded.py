"""Folded rotations are exact in every family they are offered for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from app.core.errors import UnsupportedModelError
from app.core.requests import Rotation
from workers.models import Checkpoint, build_inventory, open_checkpoint
from workers.rotate import rotate_checkpoint
from workers.rotate.structure import read_structure
from workers.rotate.verify import massive_blocks

BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "vocab_size": 96,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
    "norm_topk_prob": True,
}
HYBRID: dict[str, Any] = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 1,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": EXPERTS,
    "qwen3_5": {"text_config": {**BASE, **HYBRID, "model_type": "qwen3_5_text"}},
    "qwen3_5_moe": {"text_config": {**BASE, **HYBRID, **EXPERTS, "model_type": "qwen3_5_moe_text"}},
    "phi3": {"rope_scaling": None},
    "granite": {
        "logits_scaling": 4.0,
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
SAMPLE = (2, 12)
VALUE_LAYERS = {"qwen3_5": 0, "qwen3_5_moe": 0}


def make_model(folder: Path, family: str, extra: dict[str, Any]) -> Checkpoint:
    """Write a float32 model of `family` with random weights, norms and biases included."""
    config = BASE | {"model_type": family.removesuffix("-tied")} | extra
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    model_class, arguments_class = _get_classes(config)
    model = model_class(arguments_class.from_dict(config))
    mx.random.seed(3)
    weights = {}
    parameters: Any = tree_flatten(model.parameters())
    for name, array in parameters:
        noise = mx.random.normal(array.shape)
        is_norm = name.endswith("norm.weight")
        weights[name] = 1 + 0.3 * noise if is_norm else noise * (0.3 if array.ndim == 1 else 0.15)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return open_checkpoint(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folded_rotation_changes_nothing(tmp_path: Path, family: str) -> None:
    checkpoint = make_model(tmp_path / "model", family, FAMILIES[family])
    twin, report = rotate_checkpoint(
        checkpoint, tmp_path / "rotated", Rotation.FOLDED, sample=SAMPLE
    )
    assert report.kl_nats_per_token < 1e-9
    assert report.value_layers == VALUE_LAYERS.get(family, 2)
    assert twin.identity() == checkpoint.identity()
    before, after = checkpoint.weights(), twin.weights()
    rotated = [n for n in before if not np.allclose(np.array(before[n]), np.array(after[n]))]
    assert any("o_proj" in name or "out_proj" in name for name in rotated)
    norms = [name for name in after if name.endswith("input_layernorm.weight")]
    assert norms
    assert all(bool((after[name] == 1).all()) for name in norms)


@pytest.mark.parametrize("family", ["llama-tied", "qwen2"])
def test_a_tied_head_is_untied_and_its_bytes_are_charged(tmp_path: Path, family: str) -> None:
    checkpoint = make_model(tmp_path / "model", family, FAMILIES[family])
    twin, report = rotate_checkpoint(
        checkpoint, tmp_path / "rotated", Rotation.FOLDED, sample=SAMPLE
    )
    assert report.untied_head
    tied, untied = (build_inventory(c) for c in (checkpoint, twin))
    assert untied.weights - tied.weights == 96 * 64
    assert untied.module("lm_head").shape == (96, 64)


@pytest.mark.parametrize(
    ("family", "extra", "reason"),
    [
        ("gemma3_text", {"sliding_window": 64, "sliding_window_pattern": 2}, "stands behind"),
        ("olmo2", {}, "behind the blocks, not before"),
        ("cohere", {}, "norms"),
        ("llama", {"hidden_size": 80}, "not a multiple of 32"),
    ],
)
def test_a_family_that_cannot_be_folded_is_refused_with_the_reason(
    tmp_path: Path, family: str, extra: dict[str, Any], reason: str
) -> None:
    checkpoint = make_model(tmp_path / "model", family, extra)
    with pytest.raises(UnsupportedModelError, match=reason):
        rotate_checkpoint(checkpoint, tmp_path / "rotated", Rotation.FOLDED, sample=SAMPLE)
    assert not (tmp_path / "rotated").exists()


def test_blocks_with_massive_activations_are_left_alone(tmp_path: Path) -> None:
    checkpoint = make_model(tmp_path / "model", "llama", FAMILIES["llama"])
    weights = dict(checkpoint.weights())
    table = np.array(weights["model.embed_tokens.weight"])
    table[:, 40] += 500
    weights["model.embed_tokens.weight"] = mx.array(table)
    mx.save_safetensors(str(checkpoint.folder / "model.safetensors"), weights)
    massive = open_checkpoint(checkpoint.folder)
    structure = read_structure(massive.model_without_weights(), "llama")
    tokens = np.arange(16, dtype=np.int32)[None]
    assert massive_blocks(massive.model(), structure, tokens) == {1}
    twin, report = rotate_checkpoint(massive, tmp_path / "rotated", Rotation.FOLDED, sample=SAMPLE)
    assert report.blocks_left_alone == (1,)
    assert report.kl_nats_per_token < report.noise_floor_nats_per_token
    assert np.allclose(np.array(twin.weights()["model.embed_tokens.weight"])[:, 32:], table[:, 32:])


def test_the_sample_model_stays_under_its_noise_floor(sample_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sample_model)
    _, report = rotate_checkpoint(checkpoint, tmp_path / "rotated", Rotation.FOLDED, sample=SAMPLE)
    assert 0 < report.kl_nats_per_token < report.noise_floor_nats_per_token < 1e-3
    assert report.value_layers == 6
    again, _ = rotate_checkpoint(checkpoint, tmp_path / "rotated", Rotation.FOLDED, sample=SAMPLE)
    assert again.config["tie_word_embeddings"] is False
