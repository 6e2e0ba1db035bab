"""Probing agrees with the gradient, module by module."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitbudget.workers.fisher import collect_statistics
from bitbudget.workers.probe.noise import probe_alphas
from bitbudget.workers.running.tokens import sample_tokens


def test_probe_agrees_with_fisher(sample_model: Path) -> None:
    paths = ["model.layers.0.self_attn.v_proj", "model.layers.3.mlp.down_proj"]
    seen = []
    alphas = probe_alphas(
        sample_model, paths, seed=0, progress=lambda done, total: seen.append((done, total))
    )
    statistics = collect_statistics(sample_model, sample_tokens(sample_model, 8, seed=0), seed=0)
    for path in paths:
        assert alphas[path] == pytest.approx(statistics[path].alpha_nats, rel=0.4)
    assert seen == [(1, 2), (2, 2)]
