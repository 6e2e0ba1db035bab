"""Tokens come as often as the softmax of their logits says."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from bitbudget.workers.running.drawing_tokens import draw_tokens

ROWS = 4000


def drawn(logits: list[float], seed: int) -> np.ndarray:
    rows = mx.broadcast_to(mx.array(logits, dtype=mx.float32), (ROWS, len(logits)))
    return np.array(draw_tokens(mx.contiguous(rows), mx.random.key(seed)))


def test_frequencies_are_the_probabilities() -> None:
    logits = [0.0, -np.inf, 2.0, 1.0, -1.0]
    wanted = np.exp(logits) / np.exp(logits).sum()
    found = np.bincount(drawn(logits, seed=3), minlength=5) / ROWS
    four_standard_errors = 4 * np.sqrt(wanted * (1 - wanted) / ROWS)
    assert (np.abs(found - wanted) <= four_standard_errors).all()


def test_a_key_gives_the_same_tokens_again_and_another_key_others() -> None:
    logits = list(np.linspace(-1.0, 1.0, 50))
    assert (drawn(logits, seed=1) == drawn(logits, seed=1)).all()
    assert (drawn(logits, seed=1) != drawn(logits, seed=2)).mean() > 0.9


def test_a_token_without_probability_is_never_drawn_at_either_end() -> None:
    assert set(drawn([-np.inf, 0.0, 0.0, -np.inf], seed=0)) == {1, 2}
