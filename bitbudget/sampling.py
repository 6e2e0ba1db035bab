"""Sampling by which a draft model's tokens are accepted whenever both models would draw them.

mlx-lm's speculative decoding accepts a drafted token when it equals the token that the target
samples. Two independent samples agree with probability sum_i p_i q_i, about 0.1 at temperature 1.
Sampling is the argmax of logits plus Gumbel noise (Gumbel-max trick); with the same noise for draft
and target at every position they agree with probability sum_i 1 / sum_j max(p_j / p_i, q_j / q_i),
0.5 to 0.75 for a quantized draft. The text is that of the target alone, whatever the draft.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx

__all__ = ["shared_noise"]

_SEED_LIMIT: Final = 2**32

LogitsProcessor = Callable[[Any, Any], Any]


def shared_noise(
    temperature: float = 1.0,
    seed: int = 0,
    *,
    prompt_tokens: int = 0,
    top_p: float = 0.0,
    top_k: int = 0,
    min_p: float = 0.0,
) -> LogitsProcessor:
    """Return a logits processor for mlx-lm that makes greedy decoding a sample.

    Give it as the last of `logits_processors`, and no `sampler`. The law is that of mlx-lm's
    `make_sampler` with the same numbers; the same seed gives the same text.

    Args:
        temperature: 0 leaves the logits alone.
        seed: From 0 to 2^32 - 1.
        prompt_tokens: Tokens of the prompt with `draft_model`, 0 without: speculative decoding
            counts positions from the prompt's last token, plain generation from its first.
        top_p: As in `make_sampler`; 0 or 1 for all tokens.
        top_k: As in `make_sampler`; 0 for all tokens.
        min_p: As in `make_sampler`; 0 for all tokens.

    Raises ValueError for a negative temperature and a seed out of range.
    """
    if temperature < 0 or not 0 <= seed < _SEED_LIMIT:
        msg = f"shared_noise: temperature {temperature} must be >= 0, seed {seed} below 2^32"
        raise ValueError(msg)
    offset = max(prompt_tokens - 1, 0)
    keep = _filters(top_p, top_k, min_p)

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        if not temperature:
            return logits
        logits = logits.astype(mx.float32)
        kept = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for filter_ in keep:
            kept = filter_(kept)
        key = mx.random.key(seed * _SEED_LIMIT + tokens.size + offset)
        return kept / temperature + mx.random.gumbel(kept.shape, key=key)

    return process


def _filters(top_p: float, top_k: int, min_p: float) -> list[Callable[[Any], Any]]:
    """Return mlx-lm's own filters of log-probabilities, in the order of `make_sampler`."""
    stock: Any = importlib.import_module("mlx_lm.sample_utils")
    filters: list[Callable[[Any], Any]] = []
    if 0 < top_p < 1:
        filters.append(lambda x: stock.apply_top_p(x, top_p))
    if min_p:
        filters.append(lambda x: stock.apply_min_p(x, min_p))
    if top_k:
        filters.append(lambda x: stock.apply_top_k(x, top_k))
    return filters
