# mypy: ignore-errors
"""Write a tiny random model of each type with transformers, and its logits: run where torch is.

    python transformers_models.py OUT TYPE...

Each `OUT/TYPE` gets config.json and model.safetensors as transformers saves them, and `logits.npy`
(1, 24, vocabulary) in float32 for `tokens.npy` (1, 24). A type that transformers cannot make
stands in `failures.json`. Run as a script by `against_transformers`, and never imported.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "n_inner": 128,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "sliding_window": 64,
    "layer_types": None,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": 1,
    "state_size": 16,
}
OLMO = ("sliding", "sliding", "sliding", "full", "sliding", "sliding")
MORE = {
    "gpt2": {"n_inner": 256},
    "gpt_neox": {"intermediate_size": 256},
    "phimoe": {"attention_bias": True, "lm_head_bias": True},
    "olmo3": {"layer_types": [f"{kind}_attention" for kind in OLMO]},
}
THETA = 70_000.0
"""Another base than any class's own, so that one that is not read shows."""
ALL_HEADS = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3")


def _config_of(model_type: str) -> object:
    make = CONFIG_MAPPING[model_type]
    known = make().to_dict()
    values = {name: value for name, value in SMALL.items() if name in known}
    if known.get("head_dim", 1) is None:
        values.pop("head_dim", None)
    if model_type in ALL_HEADS:
        values["num_key_value_heads"] = values["num_attention_heads"]
    values |= MORE.get(model_type, {})
    rope = known.get("rope_parameters")
    if isinstance(rope, dict):
        parts = rope.values() if all(isinstance(part, dict) for part in rope.values()) else [rope]
        for part in parts:
            if part.get("rope_theta"):
                own = part is rope.get("sliding_attention") and model_type != "olmo3"
                part["rope_theta"] = THETA + 10_000 * own
        values["rope_parameters"] = rope
    return make(**values)


def _write(folder: Path, model_type: str) -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(_config_of(model_type), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.15 + (parameter.ndim == 1) * 0.5)
        tokens = torch.arange(24)[None] * 5 % 128
        logits = model(tokens).logits
    model.save_pretrained(folder)
    np.save(folder / "tokens.npy", tokens.numpy())
    np.save(folder / "logits.npy", logits.float().numpy())


def _main() -> None:
    torch.set_num_threads(1)
    output = Path(sys.argv[1])
    failures = {}
    for model_type in sys.argv[2:]:
        try:
            _write(output / model_type, model_type)
        except Exception as error:  # noqa: BLE001, one type less
            failures[model_type] = f"{type(error).__name__}: {error}"[:200]
    (output / "failures.json").write_text(json.dumps(failures))


if __name__ == "__main__":
    _main()
