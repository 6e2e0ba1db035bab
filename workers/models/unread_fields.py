"""Settings that change what transformers computes and that mlx-lm's classes do not read.

Found by changing one field at a time in tiny models of transformers 5.23 and comparing logits.
mlx-lm computes with the default given here, so that any other value means another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject

__all__ = ["same_setting", "unread_fields"]

_ACTIVATIONS: Final[dict[tuple[str, str], str]] = {
    ("activation_function", "gelu_new"): "gpt2",
    ("activation_function", "gelu_pytorch_tanh"): "gpt_bigcode",
    ("hidden_act", "gelu"): "gpt_neox",
    ("hidden_act", "gelu_new"): "phi",
    ("hidden_act", "gelu_pytorch_tanh"): "gemma starcoder2",
    ("hidden_act", "relu2"): "bitnet nanochat",
    ("hidden_act", "silu"): (
        "afmoe cohere cohere2 deepseek_v2 deepseek_v3 deepseek_v32 dots1 ernie4_5 "
        "ernie4_5_moe exaone4 exaone_moe falcon_h1 glm glm4 glm4_moe glm4_moe_lite "
        "glm_moe_dsa granite granitemoe internlm3 laguna llama llama4_text "
        "longcat_flash mamba mellum minicpm3 minimax ministral3 mixtral olmo2 olmo3 "
        "olmo_hybrid olmoe phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss "
        "smollm3 solar_open stablelm"
    ),
    ("hidden_activation", "gelu_pytorch_tanh"): "gemma2 gemma3_text gemma4_text",
}
"""The activation of each type, by the field that names it."""

_OTHERS: Final[dict[str, JsonObject]] = {
    "deepseek_v3": {"rope_interleave": True},
    "gemma3_text": {"use_bidirectional_attention": False},
    "glm": {"partial_rotary_factor": 1.0},
    "glm4_moe_lite": {"rope_interleave": True},
    "gpt2": {"scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True},
    "gpt_bigcode": {"scale_attn_weights": True},
    "gpt_oss": {"swiglu_alpha": 1.702},
    "llama4_text": {"num_experts_per_tok": 1},
    "mamba": {"layer_norm_epsilon": 1e-05},
    "minimax": {
        "full_attn_alpha_factor": 1,
        "full_attn_beta_factor": 1,
        "linear_attn_alpha_factor": 1,
        "linear_attn_beta_factor": 1,
        "mlp_alpha_factor": 1,
        "mlp_beta_factor": 1,
    },
    "nanochat": {"final_logit_softcapping": 15.0, "rms_norm_eps": 1e-06},
    "nemotron_h": {"mamba_hidden_act": "silu", "mlp_hidden_act": "relu2"},
    "qwen2_moe": {"norm_topk_prob": False, "use_sliding_window": False},
    "qwen3_moe": {"use_sliding_window": False},
}

_SAME: Final = (
    frozenset({"silu", "swish"}),
    frozenset({"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"}),
)
"""Activations that differ by less than 16-bit numbers do, or not at all."""


def unread_fields(model_type: str) -> Mapping[str, Any]:
    """Return what mlx-lm computes with, by the field of config.json that it does not read."""
    found = dict(_OTHERS.get(model_type, {}))
    for (name, value), types in _ACTIVATIONS.items():
        if model_type in types.split():
            found[name] = value
    return found


def same_setting(value: object, default: object) -> bool:
    """Whether two values of a field mean the same computation."""
    return value == default or any({value, default} <= names for names in _SAME)
