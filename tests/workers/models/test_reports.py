"""Faults that users of mlx-lm, transformers, vLLM, ExLlama and llama.cpp reported, each tried.

Each docstring names the report; what came of it here is the assertion.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from bitbudget.app.core.errors import BitbudgetError, UnsupportedModelError
from bitbudget.workers.evaluate.windows import text_windows
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.vocabulary import embedding_rows
from bitbudget.workers.running.float32 import load_float32
from tests.workers.models.tiny import stored_weights, write_tiny

STORY = "Once upon a time there was a little girl named Lily. She liked to play. " * 40


def changed(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_tensors(folder: Path, **tensors: mx.array) -> None:
    weights = stored_weights(folder) | {k.replace("__", "."): v for k, v in tensors.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


@pytest.mark.parametrize("model_type", ["hunyuan_v1_dense", "llama", "qwen3", "smollm3"])
def test_a_tied_head_that_is_stored_too(model_type: str, tmp_path: Path) -> None:
    """ml-explore/mlx-lm#722, vllm-project/vllm#6758: "parameters not in model: lm_head.weight"."""
    more = {"use_qk_norm": True, "rope_scaling": {"alpha": 1.0, "factor": 1.0, "type": "dynamic"}}
    changes = more if model_type == "hunyuan_v1_dense" else {}
    folder = write_tiny(tmp_path / "m", model_type, **changes)
    whole = build_inventory(open_checkpoint(folder))
    with_tensors(folder, lm_head__weight=stored_weights(folder)["model.embed_tokens.weight"])
    assert build_inventory(open_checkpoint(folder)) == whole


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_a_vision_tower_beside_a_text_model(model_type: str, tmp_path: Path) -> None:
    """ml-explore/mlx-examples#1110: "parameters not in model: visual.blocks.8.mlp.fc1.bias"."""
    folder = write_tiny(tmp_path / "m", model_type)
    whole = build_inventory(open_checkpoint(folder))
    with_tensors(folder, visual__blocks__8__mlp__fc1__bias=mx.zeros(4))
    assert build_inventory(open_checkpoint(folder)) == whole


@pytest.mark.parametrize("model_type", ["qwen3", "llama", "qwen2"])
def test_an_embedding_model_that_says_untied(model_type: str, tmp_path: Path) -> None:
    """QwenLM/Qwen3-VL-Embedding#89: "Missing 1 parameters: language_model.lm_head.weight"."""
    folder = write_tiny(tmp_path / "m", model_type)
    changed(folder, tie_word_embeddings=False)
    with pytest.raises(UnsupportedModelError, match="model without a head"):
        open_checkpoint(folder)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_yarn_under_either_name(model_type: str, tmp_path: Path) -> None:
    """ml-explore/mlx-lm#5: "rope_scaling 'type' currently only supports 'linear'"."""
    yarn = {"factor": 4.0, "original_max_position_embeddings": 64}
    old = write_tiny(tmp_path / "old", model_type, rope_scaling={"type": "yarn", **yarn})
    new = write_tiny(tmp_path / "new", model_type, rope_scaling={"rope_type": "yarn", **yarn})
    tokens = mx.arange(40)[None]
    assert mx.array_equal(load_float32(old)(tokens), load_float32(new)(tokens))


def test_longrope_with_the_new_name_alone(tmp_path: Path) -> None:
    """vllm-project/vllm#9481, huggingface/transformers#32167: KeyError 'type' or 'rope_type'."""
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 16,
        "long_factor": [2.0] * 16,
        "original_max_position_embeddings": 128,
    }
    shape = {"partial_rotary_factor": 0.5, "hidden_size": 256}
    old = {**scaling, "type": "longrope"}
    folder = write_tiny(tmp_path / "m", "phi3", rope_scaling=old, **shape)
    whole = load_float32(folder)(mx.arange(9)[None])
    changed(folder, rope_scaling=scaling)
    assert mx.array_equal(load_float32(folder)(mx.arange(9)[None]), whole)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2"])
def test_more_rows_than_the_tokenizer_has_tokens(
    model_type: str, sample_model: Path, tmp_path: Path
) -> None:
    """ggml-org/llama.cpp#3442: "Vocab size mismatch (model has 32001, tokenizer has 32000)"."""
    folder = write_tiny(tmp_path / "m", model_type, vocab_size=4097)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, folder)
    assert embedding_rows(folder) == 4097
    assert text_windows(folder, STORY, where="text").max() < 4096


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2"])
def test_a_vocabulary_size_that_is_not_the_embeddings(model_type: str, tmp_path: Path) -> None:
    """ggml-org/llama.cpp#8445: vocab_size 92550 beside an embedding of 92544 rows."""
    folder = write_tiny(tmp_path / "m", model_type)
    changed(folder, vocab_size=134)
    with pytest.raises(BitbudgetError, match=r"Expected shape \(134, 64\).*\(128, 64\)"):
        build_inventory(open_checkpoint(folder))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "granite"])
def test_a_head_that_safetensors_left_out_as_shared(model_type: str, tmp_path: Path) -> None:
    """turboderp-org/exllamav2#408, huggingface/transformers#30202: "Could not find lm_head"."""
    folder = write_tiny(tmp_path / "m", model_type, tie_word_embeddings=True)
    assert build_inventory(open_checkpoint(folder)).module("model.embed_tokens").is_tied_head


def test_a_package_that_ends_the_process(tmp_path: Path) -> None:
    """Importing mlx-lm's `olmo` without its package raises SystemExit; the type is refused."""
    folder = write_tiny(tmp_path / "m", "llama")
    changed(folder, model_type="olmo")
    with pytest.raises(UnsupportedModelError, match="has no class for it"):
        build_inventory(open_checkpoint(folder))


@pytest.mark.parametrize("model_type", ["mistral", "mixtral", "gemma2"])
def test_a_window_that_the_class_does_not_have_is_told(model_type: str, tmp_path: Path) -> None:
    """Mistral 7B 0.1 in mlx-lm: past 4,096 tokens attention is not cut off."""
    notes = open_checkpoint(write_tiny(tmp_path / "m", model_type)).notes
    assert any("last 32 tokens" in note for note in notes)
