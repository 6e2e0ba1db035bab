"""What modules are called in a GGUF, told by the `gguf` package of llama.cpp."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

from bitbudget.app.cli.extras import require_extra
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.inventory import Architecture

__all__ = ["gguf_names"]

_ARCHITECTURES: Final = {
    "cohere": "command-r",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "ernie4_5_moe": "ernie4_5-moe",
    "gemma3_text": "gemma3",
    "hunyuan_v1_dense": "hunyuan-dense",
    "minimax": "minimax-m2",
    "mistral": "llama",
    "mixtral": "llama",
    "phi": "phi2",
    "qwen3_5": "qwen35",
    "qwen3_5_moe": "qwen35moe",
}
"""Names of llama.cpp for types that it calls otherwise; others differ by dashes at most."""

_MLX_PARTS: Final = (
    ("language_model.", ""),
    (".switch_mlp.", ".experts."),
    (".block_sparse_moe.experts.gate_proj", ".block_sparse_moe.experts.w1"),
    (".block_sparse_moe.experts.down_proj", ".block_sparse_moe.experts.w2"),
    (".block_sparse_moe.experts.up_proj", ".block_sparse_moe.experts.w3"),
    (".self_attn.embed_q", ".self_attn.k_b_proj"),
    (".self_attn.unembed_out", ".self_attn.v_b_proj"),
)
"""Parts of mlx-lm's paths, and what transformers calls them."""


def gguf_names(architecture: Architecture) -> Callable[[str], str]:
    """Return the function from a module's path to the name of its weight in a GGUF.

    Raises MissingExtraError without the package; it and the function raise UnsupportedModelError
    for a type or a module that llama.cpp has no name for.
    """
    require_extra("gguf", "manifest export --for llama.cpp")
    gguf = importlib.import_module("gguf")
    wanted = _ARCHITECTURES.get(architecture.model_type, architecture.model_type)
    known = {_plain(name): arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    arch = known.get(_plain(wanted))
    if arch is None:
        raise _unknown(architecture.model_type, f"llama.cpp has no architecture {wanted!r}")
    names = gguf.get_tensor_name_map(arch, architecture.layers)

    def name(path: str) -> str:
        spelled = path
        for ours, theirs in _MLX_PARTS:
            spelled = spelled.replace(ours, theirs)
        found = names.get_name(spelled)
        if found is None:
            raise _unknown(architecture.model_type, f"llama.cpp has no tensor for {path}")
        return f"{found}.weight"

    return name


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "")


def _unknown(model_type: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        model_type=model_type, reason=reason, remedy="upgrade gguf, or export for mlx-lm"
    )
