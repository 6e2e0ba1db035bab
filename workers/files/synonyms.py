"""Fields that one library writes and the other reads under another name, or not at all.

transformers 5 leaves out what its class derives (the width of a head), fixes (Apertus norms queries
and keys) or calls otherwise (the number of experts); classes of mlx-lm ask for each by one name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject

__all__ = ["filled", "sliding_pattern"]

_GROUPS: Final = (
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    ("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token"),
    ("n_ctx", "n_positions", "max_position_embeddings"),
    ("n_inner", "intermediate_size", "ffn_dim"),
    ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
)
"""Names of the same number; a class reads one of them."""

_ALSO: Final = {"n_positions", "max_position_embeddings"}
"""Names that are read beside another one of their group."""

_FIXED: Final[dict[str, JsonObject]] = {
    "apertus": {"mlp_bias": False, "post_norm": False, "qk_norm": True},
}
"""What a class of transformers does always and mlx-lm's asks for."""


def filled(model_type: str, config: Mapping[str, Any], accepted: Collection[str]) -> JsonObject:
    """Return the fields that the class reads, `config` lacks, and another of its fields tells."""
    found = {k: v for k, v in _FIXED.get(model_type, {}).items() if k not in config}
    for group in _GROUPS:
        stated = [name for name in group if config.get(name) is not None]
        wanted = [name for name in group if name in accepted and name not in stated]
        if stated and len(wanted) == 1 and not set(stated) & (set(accepted) - _ALSO):
            found[wanted[0]] = config[stated[0]]
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    lacks_width = "head_dim" in accepted and config.get("head_dim") is None
    if lacks_width and isinstance(heads, int) and isinstance(width, int) and heads > 0:
        found["head_dim"] = width // heads
    pattern = sliding_pattern(config.get("layer_types"))
    if pattern and "sliding_window_pattern" in accepted and "layer_types" not in accepted:
        found["sliding_window_pattern"] = _as_letters(pattern, model_type)
    return {name: value for name, value in found.items() if name in accepted}


def _as_letters(pattern: int, model_type: str) -> int | str:
    """Return the period as EXAONE 4 writes it: L for a local layer, G for a global one."""
    return "L" * (pattern - 1) + "G" if model_type == "exaone4" else pattern


def sliding_pattern(layer_types: object) -> int:
    """Return n where every n-th layer sees everything and all others slide, else 0.

    sliding_pattern(["sliding_attention", "full_attention"] * 3) == 2
    """
    if not isinstance(layer_types, list) or "full_attention" not in layer_types:
        return 0
    pattern = layer_types.index("full_attention") + 1
    kinds = ("full_attention", "sliding_attention")
    expected = [kinds[(index + 1) % pattern != 0] for index in range(len(layer_types))]
    return pattern if layer_types == expected else 0
