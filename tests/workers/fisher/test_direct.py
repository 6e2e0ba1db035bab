"""Modules that are not plain: latent attention's heads, modules that no gradient reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.measurement import Measurement
from bitbudget.workers.fisher import collect_statistics
from bitbudget.workers.fisher.passes import Pass
from bitbudget.workers.fisher.statistics import Statistics
from bitbudget.workers.fisher.store import PassStore
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.layer_calls import layer_calls
from tests.support.child import run_child
from tests.workers.models.tiny import write_tiny


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


def test_a_module_that_only_selects_is_priced_as_the_median(tmp_path: Path) -> None:
    """The indexer chooses which positions attention reads."""
    folder = write_tiny(tmp_path / "model", "deepseek_v32")
    made = run_child(MeasureTask(home=str(tmp_path / "home"), model=str(folder), effort="quick"))
    measurement = Measurement.from_json(Path(made.result["measurement"]).read_bytes())
    curves = {curve.path: curve for curve in measurement.curves}
    unseen = [curve for path, curve in curves.items() if ".indexer." in path]
    assert len(unseen) >= 2
    median = float(np.median([c.alpha_nats for p, c in curves.items() if ".indexer." not in p]))
    for curve in unseen:
        assert curve.alpha_nats == pytest.approx(median)
        assert max(point.kl_nats for point in curve.points) > 0
    assert any("no gradient reached" in warning for warning in measurement.warnings)


class _First(nn.Module):
    def __call__(self, x: mx.array, shelf: list[mx.array]) -> mx.array:
        shelf.append(x)
        return x


class _Second(nn.Module):
    def __call__(self, x: mx.array, keys: Any) -> Any:
        return x + keys


class _Sharing(nn.Module):
    """The second layer reads what the first left on a shelf."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        kinds: list[Any] = [_First, _Second]
        self.layers = [kind() for kind in kinds]

    def __call__(self, ids: mx.array) -> mx.array:
        shelf: list[mx.array] = []
        h = self.layers[0](mx.zeros((*ids.shape, 4)), shelf)
        output: mx.array = self.layers[1](h, shelf[0] if shelf else None)
        return output


def test_layers_that_read_what_others_left_behind_are_no_chain() -> None:
    model, ids = _Sharing(), mx.array([[1, 2]])
    assert model(ids).shape == (1, 2, 4)
    assert layer_calls(model, model.layers, ids) is None


def test_layers_that_return_more_than_the_hidden_state_are_streamed(tmp_path: Path) -> None:
    """Gemma 4's layers hand out their keys and values, which nobody takes in the larger ones."""
    text = {
        "model_type": "gemma4_text",
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "head_dim": 32,
        "global_head_dim": 32,
        "vocab_size": 128,
        "num_key_value_heads": 1,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6},
            "sliding_attention": {"rope_theta": 1e4},
        },
    }
    folder = write_tiny(tmp_path / "model", "gemma4", text_config=text)
    tokens = np.random.default_rng(0).integers(0, 128, (4, 24), dtype=np.int32)
    streamed = Pass(lambda: load_float32(folder), tokens, 0, PassStore(tmp_path / "streamed"), None)
    whole = Pass(lambda: load_float32(folder), tokens, 0, PassStore(tmp_path / "whole"), None)
    assert streamed.is_chain()
    streamed.layer_by_layer()
    whole.whole_model()
    first, second = (Statistics(tokens.size, files=p.store.finish()) for p in (streamed, whole))
    assert set(first) == set(second)
    for path in first:
        assert first[path].alpha_nats == pytest.approx(second[path].alpha_nats, rel=1e-3)
