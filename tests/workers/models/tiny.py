"""Tiny models of many architectures, with random weights as mlx-lm names them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from bitbudget.workers.models.inventory import flat

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
    "norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "partial_rotary_factor": 0.5,
    "sliding_window": 32,
    "sliding_window_pattern": 2,
    "attention_bias": False,
    "mlp_bias": False,
}
MOE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "moe_intermediate_size": 64,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "shared_expert_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
GPT: dict[str, Any] = {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "n_ctx": 256,
    "n_inner": 128,
}
LINEAR_ATTENTION: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
}
GEMMA: dict[str, Any] = {
    "query_pre_attn_scalar": 64,
    "rope_local_base_freq": 10000.0,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
}
GRANITE: dict[str, Any] = {
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
}
CONVOLUTION: dict[str, Any] = {
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 64,
    "block_ff_dim": 128,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "full_attn_idxs": [1],
    "layer_types": ["conv", "full_attention"],
    "num_dense_layers": 1,
    "use_expert_bias": True,
}
MAMBA: dict[str, Any] = {
    "state_size": 16,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 8,
    "expand": 2,
    "d_model": 64,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_dt_rank": 8,
    "mamba_proj_bias": False,
    "mamba_conv_bias": True,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
}
FALCON: dict[str, Any] = {
    "head_dim": 16,
    "mamba_d_conv": 4,
    "mamba_d_head": 32,
    "mamba_d_ssm": 128,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_n_heads": 4,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "qwen2_moe": {**MOE, "norm_topk_prob": False},
    "qwen3_moe": MOE,
    "qwen3_next": {**MOE, **LINEAR_ATTENTION},
    "qwen3_5": {**MOE, **LINEAR_ATTENTION, "num_experts": 0},
    "gemma": {},
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gemma3": {"text_config": {**COMMON, **GEMMA, "model_type": "gemma3_text"}},
    "phi": {},
    "phi3": {},
    "phimoe": MOE,
    "mixtral": MOE,
    "deepseek": MOE,
    "deepseek_v3": {**MOE, **LATENT},
    "deepseek_v32": {
        **MOE,
        **LATENT,
        "index_head_dim": 64,
        "index_n_heads": 2,
        "index_topk": 32,
    },
    "glm4": {},
    "glm4_moe": {**MOE, "use_qk_norm": True, "rope_scaling": None},
    "gpt2": GPT,
    "gpt_neox": {**GPT, "rotary_pct": 0.5, "rotary_emb_base": 10000, "use_parallel_residual": True},
    "gpt_oss": {**MOE, **SLIDING},
    "granite": GRANITE,
    "granitemoe": {**GRANITE, **MOE},
    "cohere": {"logit_scale": 1.0},
    "starcoder2": {},
    "olmo2": {},
    "olmo3": SLIDING,
    "olmoe": MOE,
    "ernie4_5": {"use_bias": False},
    "smollm3": {"no_rope_layer_interval": 2},
    "internlm2": {},
    "nemotron": {"hidden_act": "relu2", "norm_eps": 1e-5},
    "seed_oss": {},
    "helium": {},
    "lfm2": CONVOLUTION,
    "lfm2_moe": {**CONVOLUTION, **MOE},
    "mamba": MAMBA,
    "jamba": {**MAMBA, **MOE},
    "falcon_h1": FALCON,
}


def write_tiny(folder: Path, model_type: str, **changes: Any) -> Path:
    """Write a model of `model_type` with random bf16 weights, named as its class names them."""
    config = {**COMMON, **CONFIGS.get(model_type, {}), **changes, "model_type": model_type}
    utilities = importlib.import_module("mlx_lm.utils")
    model_class, arguments_class = utilities._get_classes(config)
    mx.random.seed(7)
    model = model_class(arguments_class.from_dict(config))
    weights = {name: (0.1 * array).astype(mx.bfloat16) for name, array in flat(model.parameters())}
    return write_folder(folder, config, weights)


def write_folder(folder: Path, config: dict[str, Any], weights: dict[str, mx.array]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def stored_weights(folder: Path) -> dict[str, mx.array]:
    """Return the arrays of `model.safetensors`, read now, so that the file can be replaced."""
    loaded = mx.load(str(folder / "model.safetensors"))
    assert isinstance(loaded, dict)
    mx.eval(loaded)
    return loaded
