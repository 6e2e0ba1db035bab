"""Every structure is rotated without changing the model, or refused with what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.rotate import rotate_checkpoint
from tests.workers.rotate.families import BASE, EXPERTS, HYBRID, SAMPLE, make_model

NO_BACKBONE = "no embed_tokens, layers and norm"
BEHIND = "stands behind a block"
NO_HEAD = "cannot have a head of its own"
NOT_RMS = "not an RMS norm"
NO_VALUES = "o_proj: no matrix of values"
GATE = "o_proj: a gate"
NARROW = "o_proj: 32 does not divide"
SHARED = "o_proj: layers share"
ACTIVATION = "down_proj: its input is not"

LATENT: dict[str, Any] = {
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 2,
}
SLIDING: dict[str, Any] = {"sliding_window": 64, "sliding_window_pattern": 2}
YARN = {"factor": 4, "type": "yarn", "original_max_position_embeddings": 128, "mscale_all_dim": 1}
GEMMA4: dict[str, Any] = {
    **SLIDING,
    "global_head_dim": 32,
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 32,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
STATE_SPACE: dict[str, Any] = {
    "state_size": 16,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
}


@dataclass(frozen=True)
class Case:
    """What a family's configuration adds, and why each rotation is refused; nothing where not.

    `left` says which sites a rotation that is not refused leaves as they are, folded and fused.
    """

    extra: dict[str, Any] = field(default_factory=dict)
    folded: str = ""
    fused: str = ""
    left: tuple[str, str] = ("", "")


CASES: dict[str, Case] = {
    "llama": Case(),
    "mistral": Case(),
    "mistral3": Case({"text_config": {**BASE, "model_type": "llama"}}),
    "qwen2": Case({"tie_word_embeddings": True}),
    "qwen3": Case({"tie_word_embeddings": True}),
    "qwen3_moe": Case(EXPERTS),
    "qwen3_next": Case({**EXPERTS, **HYBRID, "partial_rotary_factor": 0.5}, left=(GATE, "")),
    "qwen3_5": Case(
        {"text_config": {**BASE, **HYBRID, "model_type": "qwen3_5_text"}}, left=(GATE, "")
    ),
    "qwen2_moe": Case({**EXPERTS, "num_experts": 4, "norm_topk_prob": False}),
    "olmoe": Case({"num_experts": 4, "num_experts_per_tok": 2}),
    "mixtral": Case({"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi3": Case({"rope_scaling": None}),
    "glm": Case({"attention_bias": False}),
    "gpt_oss": Case(
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 64,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        left=("", ACTIVATION),
    ),
    "deepseek_v2": Case({**LATENT, "rope_scaling": YARN}, left=(NO_VALUES, NO_VALUES)),
    "deepseek_v3": Case({**LATENT, "routed_scaling_factor": 1.0}, left=(NO_VALUES, NO_VALUES)),
    "gemma": Case(folded=NO_HEAD, left=("", ACTIVATION)),
    "gemma2": Case({"query_pre_attn_scalar": 32}, folded=NO_HEAD),
    "gemma3_text": Case({**SLIDING, "query_pre_attn_scalar": 32}, folded=BEHIND),
    "gemma4_text": Case(GEMMA4, folded=BEHIND, left=("", SHARED)),
    "glm4": Case({"partial_rotary_factor": 0.5, "attention_bias": False}, folded=BEHIND),
    "olmo2": Case({}, folded="no 'input_layernorm'", fused="no 'input_layernorm'"),
    "olmo3": Case(
        {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
        folded="no 'input_layernorm'",
        fused="no 'input_layernorm'",
    ),
    "exaone4": Case(
        {**SLIDING, "sliding_window_pattern": "LG", "rope_scaling": None},
        folded="no 'input_layernorm'",
        fused="no 'input_layernorm'",
    ),
    "cohere2": Case(SLIDING, folded=NOT_RMS, fused=NOT_RMS),
    "nemotron": Case(
        {"hidden_act": "relu2", "norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False},
        folded=NOT_RMS,
        fused=NOT_RMS,
    ),
    "phimoe": Case(
        {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_scaling": None},
        folded=NOT_RMS,
        fused=NOT_RMS,
    ),
    "gpt_neox": Case(
        {"layer_norm_eps": 1e-5, "rotary_emb_base": 10000, "rotary_pct": 0.5},
        folded=NO_BACKBONE,
        fused=NO_BACKBONE,
    ),
    "mamba": Case(STATE_SPACE, folded=NO_BACKBONE, fused=NO_BACKBONE),
    "lfm2": Case(
        {
            "block_dim": 64,
            "block_ff_dim": 96,
            "block_multiple_of": 32,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": False,
            "conv_L_cache": 3,
            "conv_bias": False,
            "norm_eps": 1e-5,
            "full_attn_idxs": [1],
        },
        folded=NO_BACKBONE,
        fused=NO_BACKBONE,
    ),
}


@pytest.mark.parametrize("kind", [Rotation.FOLDED, Rotation.FUSED])
@pytest.mark.parametrize("family", CASES)
def test_a_structure_is_rotated_exactly_or_refused(
    tmp_path: Path, family: str, kind: Rotation
) -> None:
    case = CASES[family]
    checkpoint = make_model(tmp_path / "model", family, case.extra)
    obstacle, left = (
        (case.folded, case.left[0]) if kind is Rotation.FOLDED else (case.fused, case.left[1])
    )
    if obstacle:
        with pytest.raises(UnsupportedModelError, match=obstacle) as refusal:
            rotate_checkpoint(checkpoint, tmp_path / "rotated", kind, sample=SAMPLE)
        assert f"'{family}'" in str(refusal.value)
        assert "use --rotation" in str(refusal.value)
        return
    _, report = rotate_checkpoint(checkpoint, tmp_path / "rotated", kind, sample=SAMPLE)
    assert report.kl_nats_per_token < 1e-9
    assert report.kl_nats_per_token < report.noise_floor_nats_per_token
    assert any(left in reason for reason in report.left_out) == bool(left), report.left_out


def test_a_model_larger_than_memory_is_verified_on_random_tokens(tmp_path: Path) -> None:
    checkpoint = make_model(tmp_path / "model", "qwen3_moe", CASES["qwen3_moe"].extra)
    _, report = rotate_checkpoint(
        checkpoint, tmp_path / "rotated", Rotation.FOLDED, sample=SAMPLE, memory_bytes=1000
    )
    assert report.tokens == "random"
    assert report.kl_nats_per_token < 1e-9
