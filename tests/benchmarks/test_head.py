"""What a head's error costs to second order."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.head import costs


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    moved = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(axis=1, keepdims=True)))


def test_the_exact_cost_is_the_kl_and_moving_all_logits_alike_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    weight, states = rng.standard_normal((40, 8)), rng.standard_normal((300, 8))
    error = 0.01 * rng.standard_normal(weight.shape)
    before, after = (_log_softmax(states @ w.T) for w in (weight, weight + error))
    kl = float((np.exp(before) * (before - after)).sum(axis=1).mean())
    exact, diagonal, _ = costs(weight, error, states)
    assert exact == pytest.approx(kl, rel=0.02)
    assert diagonal == pytest.approx(exact, rel=0.5)
    alike = np.broadcast_to(error[0], error.shape)
    exact, diagonal, _ = costs(weight, alike, states)
    assert exact == pytest.approx(0, abs=1e-9)
    assert diagonal > 1e-5
