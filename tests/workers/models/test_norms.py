from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.workers.files.headers import TensorRef
from bitbudget.workers.models import open_checkpoint
from bitbudget.workers.models.arrays import read_tensor
from tests.workers.models.tiny import write_tiny

FED = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}


def test_readers_of_a_norm_have_its_weights(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "qwen3"))
    weights = checkpoint.weights()
    gains = checkpoint.norm_gains
    assert {path.rsplit(".", 1)[-1] for path in gains} == FED
    for path, found in gains.items():
        layer = path.split(".self_attn")[0].split(".mlp")[0]
        norm = "input_layernorm" if "self_attn" in path else "post_attention_layernorm"
        expected = weights[f"{layer}.{norm}.weight"].astype(mx.float32)
        assert np.allclose(found, np.array(expected), rtol=1e-2), path


def test_an_offset_in_the_norm_is_understood(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "gemma"))
    name = "model.layers.0.input_layernorm.weight"
    weight = np.array(checkpoint.weights()[name].astype(mx.float32))
    found = checkpoint.norm_gains["model.layers.0.self_attn.q_proj"]
    assert np.allclose(found, 1 + weight, rtol=1e-2)


@pytest.mark.parametrize("family", ["gpt_neox", "qwen3_moe", "deepseek_v3", "mamba", "falcon_h1"])
def test_other_families_have_gains_of_the_right_width(tmp_path: Path, family: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, family))
    shapes = {name: array.shape for name, array in checkpoint.weights().items()}
    assert checkpoint.norm_gains
    for path, gains in checkpoint.norm_gains.items():
        assert gains.shape == shapes[f"{path}.weight"][-1:]
        assert np.isfinite(gains).all()


def test_norms_in_files_that_are_away_are_read_by_themselves_or_left_out(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "qwen3"))
    read: list[str] = []

    def peek(source: TensorRef) -> bytes:
        read.append(source.name)
        return bytes(read_tensor(checkpoint.folder, source).tobytes())

    def outline() -> dict[str, mx.array]:
        return {name: mx.zeros_like(array) for name, array in checkpoint.load().items()}

    away = replace(checkpoint, outline=outline, peek=peek)
    found, expected = away.norm_gains, checkpoint.norm_gains
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], expected[path]) for path in expected)
    assert len(read) == 4
    assert replace(away, peek=None).norm_gains == {}
