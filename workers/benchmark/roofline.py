"""The bytes a decoded token reads: what bounds its speed.

A matrix is read whole, an embedding costs a row, stacked experts the share that a token uses, and
the cache as it stands. Source: `1 / tps >= bytes_per_token / bandwidth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from bitbudget.app.core.canonical import JsonObject
from bitbudget.workers.files.language_part import setting

__all__ = ["TokenBytes", "bytes_per_token"]


@dataclass(frozen=True)
class TokenBytes:
    """Bytes one decoded token reads, by origin."""

    dense: int
    experts: int
    embedding: int
    cache: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.dense + self.experts + self.embedding + self.cache


def _nbytes(tree: Any) -> int:
    leaves: Any = tree_flatten(tree)
    return sum(int(leaf.nbytes) for _, leaf in leaves if isinstance(leaf, mx.array))


def bytes_per_token(model: nn.Module, config: JsonObject, cache: list[Any]) -> TokenBytes:
    """Return the bytes a token reads of `model` with `cache` as it stands."""
    top_k = setting(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk") or 1
    tied = setting(config, "tie_word_embeddings")
    dense = experts = embedding = 0
    for _, module in model.named_modules():
        own = _nbytes({k: v for k, v in module.items() if isinstance(v, mx.array)})
        if "Switch" in type(module).__name__ and own:
            experts += own * int(top_k) // module["weight"].shape[0]
        elif isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)):
            rows = module["weight"].shape[0]
            embedding += own if tied else own // rows
        else:
            dense += own
    return TokenBytes(dense, experts, embedding, sum(_nbytes(entry.state) for entry in cache))
