"""Weights that are no numbers: the module is named, however it was found out."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.measurement import Sensitivity
from bitbudget.workers.pipeline.tasks import run_task
from tests.workers.models.tiny import write_folder, write_tiny


@pytest.mark.parametrize("sensitivity", [Sensitivity.WEIGHTS, Sensitivity.FISHER])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_names_the_module(
    sensitivity: Sensitivity, value: float, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "sound", "llama")
    config = json.loads((folder / "config.json").read_text())
    weights = dict(mx.load(str(folder / "model.safetensors")))  # type: ignore[arg-type]
    name = "model.layers.1.mlp.down_proj.weight"
    odd = weights[name].astype(mx.float32)
    odd[3, 5] = value
    weights[name] = odd.astype(mx.bfloat16)
    model = write_folder(tmp_path / "odd", config, weights)
    task = MeasureTask(home=str(tmp_path / "home"), model=str(model), sensitivity=sensitivity)
    with pytest.raises(InvalidModelError, match=r"model\.layers\.1\.mlp\.down_proj"):
        run_task(task, lambda _: None)
