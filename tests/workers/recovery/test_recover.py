"""Distilling into a real checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from bitbudget.app.core.requests import Recover
from bitbudget.workers.evaluate import Evaluator
from bitbudget.workers.recovery import Ended, recover
from bitbudget.workers.recovery.training import Training
from tests.workers.recovery.checkpoints import quantized


def test_recovery_lowers_kl_in_the_same_bytes(original: Path, rough: Path) -> None:
    file = next(rough.glob("*.safetensors"))
    size = file.stat().st_size
    judge = Evaluator(original, rollouts=4, seed=123)
    before = judge.report(rough)["kl_nats_per_token"]
    told: list[tuple[int, int]] = []
    found = recover(
        rough,
        original,
        Recover.SCALES,
        seconds=600,
        steps=12,
        progress=lambda done, total: told.append((done, total)),
    )
    assert found.changed
    assert found.after < found.before
    assert found.ended is Ended.TIME
    assert [total for _, total in told] == [600] * 12
    assert file.stat().st_size == size
    assert judge.report(rough)["kl_nats_per_token"] < before
    assert json.loads((rough / "recovery.json").read_text()) == asdict(found)
    load_model(rough, strict=True)


def test_without_time_nothing_changes(original: Path, rough: Path) -> None:
    file = next(rough.glob("*.safetensors"))
    data = file.read_bytes()
    found = recover(rough, original, Recover.SCALES, seconds=0)
    assert not found.changed
    assert found.after == found.before
    assert found.steps == 0
    assert file.read_bytes() == data


def test_a_gradient_that_is_no_number_ends_it_with_the_best_kept(
    original: Path, rough: Path
) -> None:
    training = Training(rough, original, seed=0)
    name = "model.norm.weight"
    training.values["w"][name] = mx.full(training.values["w"][name].shape, float("nan"))
    kept = training.kept
    training.step(0.0)
    assert not training.finite
    assert training.steps == 0
    assert training.kept is kept


def test_predictions_that_are_no_numbers_are_never_the_best(original: Path, rough: Path) -> None:
    training = Training(rough, original, seed=0)
    training.steps = 1
    infinite = {
        name: mx.full(array.shape, float("inf")) for name, array in training.values["w"].items()
    }
    training.mean = {**training.values, "w": infinite}
    training.look()
    assert training.best == training.first
    assert training.stale == 1
    assert training.mean is training.kept


def test_a_checkpoint_with_nothing_quantized_cannot_be_bettered(original: Path) -> None:
    file = next(original.glob("*.safetensors"))
    data = file.read_bytes()
    found = recover(original, original, Recover.SCALES, seconds=1)
    assert not found.changed
    assert found.ended is Ended.NOTHING
    assert file.read_bytes() == data


@pytest.mark.slow
def test_a_trained_model_recovers(sample_model: Path, tmp_path: Path) -> None:
    rough = quantized(sample_model, tmp_path / "rough", bits=2)
    judge = Evaluator(sample_model, rollouts=4, seed=123)
    before = judge.report(rough)["kl_nats_per_token"]
    found = recover(rough, sample_model, Recover.SCALES, seconds=600, steps=40)
    assert found.changed
    assert judge.report(rough)["kl_nats_per_token"] < 0.8 * before
