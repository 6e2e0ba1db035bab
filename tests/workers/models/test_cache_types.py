"""The KV cache has the type of the model's own forward pass, not that of any one tensor."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from bitbudget.app.core.memory import element_bytes, kv_cache_bytes
from bitbudget.workers.models import build_inventory, open_checkpoint
from tests.workers.models.tiny import stored_weights, write_tiny

CONTEXT = 256


def widened(folder: Path, model_type: str, part: str) -> Path:
    """Write a bf16 model in which every tensor with `part` in its name is float32."""
    write_tiny(folder, model_type, torch_dtype="bfloat16", tie_word_embeddings=False)
    changed = {
        name: array.astype(mx.float32) if part and part in name else array
        for name, array in stored_weights(folder).items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), changed)
    return folder


def real_bytes(folder: Path) -> int:
    model, _ = load_model(folder)
    caches = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, CONTEXT), mx.int32), cache=caches))
    return sum(cache.keys.nbytes + cache.values.nbytes for cache in caches)


@pytest.mark.parametrize(
    ("part", "width"),
    [
        ("", 2),
        ("norm", 4),
        ("lm_head", 2),
        ("layers.0.self_attn.k_proj.weight", 4),
        ("down_proj", 4),
        ("o_proj", 4),
    ],
)
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "granite", "olmo2"])
def test_the_predicted_cache_is_the_real_one(
    model_type: str, part: str, width: int, tmp_path: Path
) -> None:
    folder = widened(tmp_path / "m", model_type, part)
    inventory = build_inventory(open_checkpoint(folder))
    told = kv_cache_bytes(inventory.architecture, CONTEXT, 16, element_bytes(inventory))
    assert told == real_bytes(folder)
    assert element_bytes(inventory) == width


def test_a_float32_bias_of_the_keys_widens_what_follows(tmp_path: Path) -> None:
    folder = widened(tmp_path / "m", "qwen2", "k_proj.bias")
    inventory = build_inventory(open_checkpoint(folder))
    told = kv_cache_bytes(inventory.architecture, CONTEXT, 16, element_bytes(inventory))
    assert told == real_bytes(folder)
    assert element_bytes(inventory) == 4
