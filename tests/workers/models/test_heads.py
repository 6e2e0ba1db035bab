"""Tied or not: the stored values decide, not the flag."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.running.float32 import load_float32
from tests.workers.models.tiny import stored_weights, write_tiny

TYPES = ["llama", "qwen3", "granite", "olmo2"]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def edited(
    folder: Path, model_type: str, *, flag: bool | None, head: str, stored_flag: bool = False
) -> Path:
    """Write a model whose stored head is `own`, `equal` or `none`, and whose flag is `flag`."""
    write_tiny(folder, model_type, tie_word_embeddings=stored_flag)
    weights = stored_weights(folder)
    if head == "equal":
        weights[HEAD] = weights[EMBEDDING] + 0
    elif head == "none":
        weights.pop(HEAD, None)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings")
    if flag is not None:
        config["tie_word_embeddings"] = flag
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("flag", [True, False, None])
@pytest.mark.parametrize("model_type", TYPES)
def test_an_own_head_is_kept_whatever_the_flag(
    model_type: str, *, flag: bool | None, tmp_path: Path
) -> None:
    folder = edited(tmp_path / "model", model_type, flag=flag, head="own")
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    assert inventory.module("lm_head").shape == (128, 64)
    assert not any(module.is_tied_head for module in inventory.modules)
    assert checkpoint.config["tie_word_embeddings"] is False
    told = [note for note in checkpoint.notes if HEAD in note]
    assert len(told) == (flag is not False)
    truth = load_float32(edited(tmp_path / "truth", model_type, flag=False, head="own"))
    tokens = mx.arange(9)[None]
    assert mx.array_equal(load_float32(folder)(tokens), truth(tokens))


@pytest.mark.parametrize("flag", [True, False, None])
@pytest.mark.parametrize("model_type", TYPES)
def test_a_head_that_equals_the_embedding_is_tied(
    model_type: str, *, flag: bool | None, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(edited(tmp_path / "m", model_type, flag=flag, head="equal"))
    inventory = build_inventory(checkpoint)
    assert inventory.module("model.embed_tokens").is_tied_head
    assert checkpoint.config["tie_word_embeddings"] is True
    assert "lm_head" not in {module.path for module in inventory.modules}


@pytest.mark.parametrize("flag", [True, None])
@pytest.mark.parametrize("model_type", TYPES)
def test_without_a_head_the_embedding_is_it(
    model_type: str, *, flag: bool | None, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(edited(tmp_path / "m", model_type, flag=flag, head="none"))
    assert build_inventory(checkpoint).module("model.embed_tokens").is_tied_head


@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_without_a_head_is_refused_as_one(model_type: str, tmp_path: Path) -> None:
    folder = edited(tmp_path / "m", model_type, flag=False, head="none")
    with pytest.raises(UnsupportedModelError, match="model without a head"):
        open_checkpoint(folder)


@pytest.mark.parametrize("model_type", ["gemma", "cohere", "gemma2"])
def test_an_own_head_that_the_class_cannot_keep_is_refused(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m", model_type)
    weights = stored_weights(folder)
    own = weights | {HEAD: weights[EMBEDDING] + 1}
    mx.save_safetensors(str(folder / "model.safetensors"), own)
    with pytest.raises(UnsupportedModelError, match="always uses the embedding as the head"):
        build_inventory(open_checkpoint(folder))
