"""Tiny float32 models of many families, with random weights, norms and biases included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from bitbudget.workers.models import Checkpoint, open_checkpoint

__all__ = ["FAMILIES", "SAMPLE", "make_model"]

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
