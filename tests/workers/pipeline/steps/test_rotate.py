"""Jobs on rotated models: what is measured, chosen, written and evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.measurement import Encoder, Sensitivity
from bitbudget.app.core.requests import Rotation
from bitbudget.app.core.runtime import Runtime
from bitbudget.workers.pipeline.tasks import run_task
from tests.workers.rotate.families import FAMILIES, make_model


def measure(
    home: Path, model: Path, rotation: Rotation, runtime: Runtime = Runtime.STOCK
) -> dict[str, Any]:
    task = MeasureTask(
        home=str(home),
        model=str(model),
        encoder=Encoder.MINMAX,
        sensitivity=Sensitivity.WEIGHTS,
        rotation=rotation,
        runtime=runtime,
    )
    events: list[Event] = []
    result = run_task(task, events.append).model_dump(mode="json")
    measurement = json.loads(Path(result["measurement"]).read_bytes())
    return {**measurement, "logs": [event.detail for event in events if event.kind == "log"]}


def test_auto_measures_the_model_and_its_folded_twin(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "qwen3", FAMILIES["qwen3"])
    plain = measure(tmp_path / "home", tmp_path / "model", Rotation.NONE)
    both = measure(tmp_path / "home", tmp_path / "model", Rotation.AUTO)
    assert (plain["rotation"], both["rotation"]) == ("none", "folded")
    assert plain["model"] == both["model"]
    paths = [{m["path"] for m in found["inventory"]["modules"]} for found in (plain, both)]
    assert paths[1] - paths[0] == {"lm_head"}
    assert any("noise floor" in line for line in both["logs"])


def test_auto_for_our_own_runtime_measures_the_fused_twin(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "llama", FAMILIES["llama"])
    place = tmp_path / "home", tmp_path / "model"
    found = measure(*place, Rotation.AUTO, Runtime.BITBUDGET)
    assert found["rotation"] == "fused"


def test_auto_falls_back_to_none_and_says_why(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "olmo2", {})
    found = measure(tmp_path / "home", tmp_path / "model", Rotation.AUTO)
    assert found["rotation"] == "none"
    assert any("no rotation" in line for line in found["logs"])
    with pytest.raises(UnsupportedModelError, match="no rotation"):
        measure(tmp_path / "home", tmp_path / "model", Rotation.FOLDED)


def test_a_rotated_measurement_carries_what_its_rounding_lost(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "qwen3", FAMILIES["qwen3"])
    plain = measure(tmp_path / "home", tmp_path / "model", Rotation.NONE)
    twin = measure(tmp_path / "home", tmp_path / "model", Rotation.FOLDED)
    assert plain["rotation_kl_nats"] == 0
    assert 0 < twin["rotation_kl_nats"] < 1e-9
