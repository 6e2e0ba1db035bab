"""Distilling into scales and biases of a real checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model, load_tokenizer, quantize_model, save

from workers.evaluate import Evaluation
from workers.recovery import recover_scales


@pytest.fixture
def rough(sample_model: Path, tmp_path: Path) -> Path:
    model, config = load_model(sample_model)
    tokenizer: Any = load_tokenizer(sample_model)  # type: ignore[no-untyped-call]
    model, config = quantize_model(model, config, group_size=64, bits=2)
    save(tmp_path / "rough", str(sample_model), model, tokenizer, config)
    return tmp_path / "rough"


@pytest.mark.slow
def test_recovery_lowers_kl_in_the_same_bytes(sample_model: Path, rough: Path) -> None:
    file = next(rough.glob("*.safetensors"))
    size = file.stat().st_size
    judge = Evaluation(sample_model, rollouts=4, seed=123)
    before = judge.report(rough)["kl_nats_per_token"]
    found = recover_scales(rough, sample_model, seconds=60)
    assert found.changed
    assert found.after < found.before
    assert file.stat().st_size == size
    assert judge.report(rough)["kl_nats_per_token"] < before


def test_without_time_nothing_changes(sample_model: Path, rough: Path) -> None:
    file = next(rough.glob("*.safetensors"))
    data = file.read_bytes()
    found = recover_scales(rough, sample_model, seconds=0)
    assert not found.changed
    assert found.after == found.before
    assert found.steps == 0
    assert file.read_bytes() == data
