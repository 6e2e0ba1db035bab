"""Distilling into a real checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model, load_tokenizer, quantize_model, save

from app.core.requests import Recover
from workers.evaluate import Evaluation
from workers.recovery import recover
from workers.recovery.patch import patch
from workers.recovery.student import Student


@pytest.fixture
def rough(sample_model: Path, tmp_path: Path) -> Path:
    model, config = load_model(sample_model)
    tokenizer: Any = load_tokenizer(sample_model)  # type: ignore[no-untyped-call]
    model, config = quantize_model(model, config, group_size=64, bits=2)
    save(tmp_path / "rough", str(sample_model), model, tokenizer, config)
    return tmp_path / "rough"


@pytest.mark.slow
@pytest.mark.parametrize("how", [Recover.SCALES, Recover.QAD])
def test_recovery_lowers_kl_in_the_same_bytes(
    sample_model: Path, rough: Path, how: Recover
) -> None:
    file = next(rough.glob("*.safetensors"))
    size = file.stat().st_size
    judge = Evaluation(sample_model, rollouts=4, seed=123)
    before = judge.report(rough)["kl_nats_per_token"]
    found = recover(rough, sample_model, how, seconds=60)
    assert found.changed
    assert found.after < found.before
    assert file.stat().st_size == size
    assert judge.report(rough)["kl_nats_per_token"] < before


def test_without_time_nothing_changes(sample_model: Path, rough: Path) -> None:
    file = next(rough.glob("*.safetensors"))
    data = file.read_bytes()
    found = recover(rough, sample_model, Recover.QAD, seconds=0)
    assert not found.changed
    assert found.after == found.before
    assert found.steps == 0
    assert file.read_bytes() == data


def test_parameters_that_changed_nothing_are_the_stored_arrays(rough: Path) -> None:
    student = Student(rough)
    arrays = student.arrays(student.grids(), student.latents())
    stored: Any = mx.load(str(next(rough.glob("*.safetensors"))))
    assert arrays.keys() <= stored.keys()
    for name, array in arrays.items():
        kept = stored[name]
        kept = np.array(kept.view(mx.uint16) if kept.dtype == mx.bfloat16 else kept)
        np.testing.assert_array_equal(array, kept)


def test_moved_weights_are_stored_as_the_codes_they_moved_to(rough: Path) -> None:
    student = Student(rough)
    latents = student.latents()
    path = "model.layers.0.mlp.down_proj"
    own = student.stored[path]
    latents[path] = [mx.full(latents[path][0].shape, 1.4 / own.step)]
    patch(rough, student.arrays(student.grids(), latents))
    again = Student(rough).stored[path]
    assert mx.array_equal(again.codes, mx.minimum(own.codes + 1, 3))


def test_gradients_pass_straight_through_the_rounding(rough: Path) -> None:
    student = Student(rough)
    path = "model.layers.0.mlp.down_proj"
    own = student.stored[path]

    def total(latent: mx.array) -> mx.array:
        latents = student.latents() | {path: [latent]}
        student.apply(student.grids(), latents)
        module: Any = student.modules[path]
        result: mx.array = module.weight.sum()
        return result

    gradient = mx.grad(total)(student.latents()[path][0])
    expected = mx.broadcast_to(own.step * own.scales[..., None], own.codes.shape)
    assert mx.allclose(gradient, expected.flatten(-2, -1))
