"""Drawing the next token of a text from a model's logits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from bitbudget.workers.running.device import on_gpu

__all__ = ["draw_tokens"]


def draw_tokens(logits: mx.array, key: mx.array) -> mx.array:
    """Return int32 (rows,): a token of each row, drawn from the softmax of float32 (rows, tokens).

    On a CPU it is the first token at which the sum of probabilities passes a uniform number of the
    row: MLX draws by Gumbel noise, whose two logarithms a logit take twice as long there.
    """
    if on_gpu():
        drawn: mx.array = mx.random.categorical(logits, key=key).astype(mx.int32)
        return drawn
    uniform = np.array(mx.random.uniform(shape=(len(logits),), key=key), np.float64)
    rows = np.array(logits, copy=False)
    return mx.array([_drawn(row, share) for row, share in zip(rows, uniform, strict=True)])


def _drawn(logits: np.ndarray, share: float) -> int:
    """Return the token where the cumulated softmax of float32 (tokens,) exceeds `share`."""
    passed = np.cumsum(np.exp(logits - logits.max()), dtype=np.float64)
    return int(np.searchsorted(passed[:-1], share * passed[-1], side="right"))
