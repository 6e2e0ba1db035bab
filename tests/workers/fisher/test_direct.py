"""Modules of a kind whose calls are not recorded: multi-head linear of latent attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.workers.models.tiny import write_tiny
from workers.fisher import collect_statistics, load_float32
from workers.fisher.statistics import Statistics


def _collected(folder: Path, sequences: int = 6) -> Statistics:
    write_tiny(folder, "deepseek_v3")
    tokens = np.random.default_rng(0).integers(0, 128, (sequences, 32), dtype=np.int32)
    return collect_statistics(folder, tokens, seed=0)


def test_latent_attention_has_kronecker_factors_per_head(tmp_path: Path) -> None:
    statistics = _collected(tmp_path / "model")
    model = load_float32(tmp_path / "model")
    weights = {
        path: module.weight
        for path, module in model.named_modules()
        if type(module).__name__ == "MultiLinear"
    }
    assert weights
    for path, weight in weights.items():
        heads, rows, columns = weight.shape
        entry = statistics[path]
        (term,) = entry.terms
        assert term.columns.shape == (heads, columns, columns)
        assert term.rows.shape == (heads, rows, rows)
        assert entry.second_moment.shape == (heads, columns, columns)
        np.testing.assert_allclose(
            np.diagonal(term.rows, axis1=-2, axis2=-1), entry.row_sums, rtol=1e-3
        )
        assert entry.kl_nats(np.array(weight) * 0.01) > 0
