"""Training with one layer's weights in memory gives what training the whole model gives."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import psutil
import pytest
from mlx.utils import tree_flatten

from bitbudget.app.core.requests import Recover
from bitbudget.workers.recovery import recover, streams
from bitbudget.workers.recovery.by_layers import StreamedStudent, layer_gradients
from bitbudget.workers.recovery.divergence import cross_entropy
from bitbudget.workers.recovery.student import Student, Values
from bitbudget.workers.recovery.training import Training
from bitbudget.workers.running.float32 import load_float32
from tests.workers.models.tiny import write_tiny
from tests.workers.pipeline.test_own_formats import checkpoint
from tests.workers.recovery.checkpoints import quantized, tiny

IDS = mx.array(np.arange(48).reshape(2, 24))


def both(original: Path, rough: Path) -> tuple[Student, Student]:
    whole = Student(rough, load_float32(original))
    return whole, Student(rough, load_float32(original), whole=False)


def whole_gradients(student: Student, values: Values, target: mx.array) -> Values:
    def loss(moved: Values) -> mx.array:
        model: Any = student.apply(moved)
        value: Any = cross_entropy(model(IDS), target)
        return value  # type: ignore[no-any-return]

    found: Values = mx.grad(loss)(values)
    return found


def moved(student: Student) -> Values:
    keys = iter(mx.random.split(mx.random.key(4), 500))
    return {
        kind: {name: 0.3 * mx.random.normal(a.shape, key=next(keys)) for name, a in part.items()}
        for kind, part in student.values().items()
    }


def assert_close(found: Any, expected: Any, tolerance: float) -> None:
    ours, theirs = dict(tree_flatten(found)), dict(tree_flatten(expected))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        scale = float(mx.abs(array).max()) + 1e-12
        assert float(mx.abs(ours[name] - array).max()) <= tolerance * scale, name


def check_gradients(original: Path, rough: Path) -> None:
    whole, streamed = both(original, rough)
    values = moved(whole)
    target = mx.softmax(load_float32(original)(IDS), axis=-1)
    expected = whole_gradients(whole, values, target)
    assert_close(layer_gradients(streamed, values, IDS, target), expected, 2e-4)
    logits = StreamedStudent(streamed, values)(IDS)
    stored: Any = whole.apply(values, stored=True)
    assert mx.allclose(logits, stored(IDS), atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3_moe"])
def test_gradients_by_layer_are_those_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    original = tiny(tmp_path / "original", model_type=kind)
    check_gradients(original, quantized(original, tmp_path / "rough"))


def test_gradients_of_our_own_formats_are_those_of_the_whole_model(tmp_path: Path) -> None:
    rough = checkpoint(tmp_path, "qwen3", ("two3g32",))[0]
    check_gradients(tmp_path / "model", rough)


def test_steps_by_layer_lead_to_the_same_parameters(original: Path, rough: Path) -> None:
    trainings = [Training(rough, original, seed=0, streamed=s) for s in (False, True)]
    for training in trainings:
        for _ in range(4):
            training.step(0.1)
        training.look()
    whole, streamed = trainings
    assert streamed.first == pytest.approx(whole.first, rel=1e-4)
    assert streamed.best == pytest.approx(whole.best, rel=1e-3)
    assert whole.best < whole.first
    assert_close(streamed.values, whole.values, 2e-2)  # AdamW divides by small gradients


def test_what_does_not_fit_three_times_is_trained_by_layers(
    original: Path, rough: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not streams(rough, original)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000))
    assert streams(rough, original)
    size = sum(file.stat().st_size for file in rough.glob("*.safetensors"))
    found = recover(rough, original, Recover.SCALES, seconds=600, steps=12, streamed=True)
    assert found.changed
    assert found.after < found.before
    assert size == sum(file.stat().st_size for file in rough.glob("*.safetensors"))


def peak_bytes(run: Callable[[], object]) -> int:
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    run()
    return mx.get_peak_memory() - before


def test_one_layer_is_in_memory_at_a_time(tmp_path: Path) -> None:
    original = write_tiny(tmp_path / "deep", "llama", num_hidden_layers=12)
    whole, streamed = both(original, quantized(original, tmp_path / "rough"))
    values = streamed.values()
    target = mx.softmax(load_float32(original)(IDS), axis=-1)
    mx.eval(values, target)
    of_whole = peak_bytes(lambda: mx.eval(whole_gradients(whole, values, target)))
    assert peak_bytes(lambda: layer_gradients(streamed, values, IDS, target)) < 0.4 * of_whole
