"""Folded rotations are exact in every family they are offered for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.rotate import rotate_checkpoint
from bitbudget.workers.rotate.checks import mean_kl, noise_floor, observe
from bitbudget.workers.rotate.streamed_logits import logits_of
from bitbudget.workers.rotate.structure import read_structure
from bitbudget.workers.running.float32 import load_float32
from tests.workers.rotate.families import FAMILIES, SAMPLE, make_model

VALUE_LAYERS = {"qwen3_5": 0, "qwen3_5_moe": 0}


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
        ("cohere", {}, "LayerNorm"),
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
    assert observe(massive.model, structure, tokens)[1] == {1}
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


def test_experts_have_a_noise_floor_of_their_own(tmp_path: Path) -> None:
    checkpoint = make_model(tmp_path / "model", "qwen3_moe", FAMILIES["qwen3_moe"])
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)

    def load() -> nn.Module:
        return load_float32(checkpoint.folder)

    def without_experts() -> nn.Module:
        model = load()
        for path, module in model.named_modules():
            if "switch_mlp" not in path:
                for name, array in module.items():
                    if isinstance(array, mx.array):
                        module[name] = array.astype(mx.bfloat16).astype(mx.float32)
        return model

    reference = logits_of(load, tokens)
    rounded_weights = mean_kl(reference, logits_of(without_experts, tokens))
    assert noise_floor(reference, load, tokens) > rounded_weights > 0
