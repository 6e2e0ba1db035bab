"""Hostile checkpoints, given to every task that runs or publishes one without measuring it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from bitbudget.app.contract.tasks import (
    ActivationTask,
    BenchmarkTask,
    CompareTextTask,
    DraftTask,
    EvaluateTask,
    Task,
    UploadTask,
)
from bitbudget.app.core.manifest import MAX_MANIFEST_BYTES
from bitbudget.workers.pipeline.tasks import run_task
from bitbudget.workers.running.float32 import load_float32
from tests.hostile.conftest import Refused
from tests.hostile.tiny import SHAPES, Case, config, model

pytestmark = pytest.mark.hostile

HUGE = {
    "layers": {"num_hidden_layers": 10**8},
    "experts": {"num_local_experts": 10**9},
    "pattern": {"layer_types": ["full_attention"] * 10**5},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original; opening it once pays for imports."""
    folder = Case("sound", model()).write(tmp_path_factory.mktemp("sound") / "model")
    load_float32(folder)
    return folder


def quantized(folder: Path, **odd: object) -> Path:
    """Write a checkpoint whose tensors MLX quantized, and whose configuration is odd."""
    folder.mkdir()
    how: dict[str, Any] = {"group_size": 32, "bits": 4}
    stated = json.loads(config()) | odd | {"quantization": how}
    (folder / "config.json").write_text(json.dumps(stated))
    weights = {}
    for name, shape in SHAPES.items():
        weight = mx.zeros(shape, mx.bfloat16)
        if len(shape) < 2 or shape[-1] % 32:
            weights[name] = weight
            continue
        stem = name.removesuffix("weight")
        parts = mx.quantize(weight, **how)
        weights |= dict(zip((name, f"{stem}scales", f"{stem}biases"), parts, strict=True))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def tasks(home: Path, original: Path, odd: Path) -> list[Task]:
    """Return every task that runs a checkpoint that somebody gave."""
    place, checkpoint, sound = str(home), str(odd), str(original)
    return [
        EvaluateTask(home=place, checkpoint=checkpoint, reference=sound),
        ActivationTask(home=place, checkpoint=checkpoint, reference=sound, activations="int8:32"),
        DraftTask(home=place, target=sound, draft=checkpoint),
        DraftTask(home=place, target=checkpoint, draft=sound),
        BenchmarkTask(home=place, checkpoint=checkpoint),
        CompareTextTask(home=place, model=sound, checkpoint=checkpoint, prompt="Once"),
    ]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("odd", HUGE.values(), ids=HUGE)
def test_a_checkpoint_that_counts_too_much_is_refused_before_it_is_built(
    odd: dict[str, object], number: int, sound: Path, tmp_path: Path, refused: Refused
) -> None:
    checkpoint = quantized(tmp_path / "odd", **odd)
    task = tasks(tmp_path / "home", sound, checkpoint)[number]
    with refused():
        run_task(task, lambda _: None)


@pytest.mark.parametrize("odd", HUGE.values(), ids=HUGE)
def test_an_original_that_counts_too_much_is_refused_before_it_is_built(
    odd: dict[str, object], sound: Path, tmp_path: Path, refused: Refused
) -> None:
    original = Case("odd", model() | {"config.json": config(**odd)}).write(tmp_path / "odd")
    task = EvaluateTask(home=str(tmp_path), checkpoint=str(sound), reference=str(original))
    with refused():
        run_task(task, lambda _: None)


def test_a_manifest_as_large_as_a_model_is_not_read(tmp_path: Path, refused: Refused) -> None:
    folder = quantized(tmp_path / "odd")
    (folder / "manifest.json").touch()
    os.truncate(folder / "manifest.json", MAX_MANIFEST_BYTES + 1)
    task = UploadTask(home=str(tmp_path), checkpoint=str(folder), repository="me/tiny")
    with refused():
        run_task(task, lambda _: None)
