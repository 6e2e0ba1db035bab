"""A job at few bits per weight measures errors together; it is never worse for that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.tasks import JobTask
from bitbudget.app.core import effort
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.requests import JobRequest
from bitbudget.workers.evaluate import reference
from bitbudget.workers.pipeline.steps import relinearize as low_bits
from bitbudget.workers.pipeline.tasks import run_task
from tests.support.efforts import limit_tokens


@pytest.fixture(scope="module")
def model(large_errors_model: Path) -> Path:
    return large_errors_model


@pytest.fixture(scope="module", autouse=True)
def little_text() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        limit_tokens(patch, 2048)
        patch.setattr(reference, "PROBING_WINDOWS", 2)
        patch.setattr(effort, "_MOST_VERIFYING", 6)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def run(model: Path, home: Path, budget: int = 60_000, **fields: Any) -> dict[str, Any]:
    request = JobRequest(model=str(model), budget=budget, sqnr_floor_db=0, **fields)
    events: list[Event] = []
    task = JobTask(home=str(home), request=request)
    result = run_task(task, events.append).model_dump(mode="json")
    logs = [event.detail for event in events if event.kind == "log"]
    announced = [e.path for e in events if e.kind == "artifact" and e.name == "manifest.json"]
    assert announced[-1] == result["manifest"]
    return result | {"logs": logs}


def test_few_bits_are_measured_together_once(model: Path, home: Path) -> None:
    result = run(model, home)
    found = result["low_bits"]
    kl = found["measured_kl_nats_per_token"]
    assert found["bits_per_weight"] < 3.5
    assert kl[found["chosen"]] == min(kl.values()) <= kl["as allocated first"]
    written = found["written_kl_nats_per_token"]
    assert result["predicted_kl_nats_per_token"] == pytest.approx(written)
    assert 0 < written < 2 * min(kl.values())
    assert result["bound"] <= result["predicted_kl_nats_per_token"]
    manifest = Manifest.from_bytes(Path(result["manifest"]).read_bytes())
    assert manifest.file_bytes <= 60_000
    assert sum(c.kl_nats for c in manifest.modules.values()) == pytest.approx(written)
    assert any("measured on 4 rollouts" in note for note in manifest.notes)
    doubted = any("disagree by a factor" in note for note in manifest.notes)
    assert doubted == (found["ends"]["disagreement"] > found["ends"]["warns_above"])
    again = run(model, home)
    assert again["sha256"] == result["sha256"]
    assert again["low_bits"] == found


def test_it_can_be_left_out_or_asked_for(model: Path, home: Path) -> None:
    plain = run(model, home, relinearize=False)
    assert "low_bits" not in plain
    assert "low_bits" not in run(model, home, budget=100_000)
    asked = run(model, home, budget=100_000, relinearize=True)
    assert asked["low_bits"]["bits_per_weight"] > 3.5


def test_what_hinders_it_is_said(model: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_bits, "_MOST_WORK", 1)
    result = run(model, home, budget=59_000)
    assert "--relinearize" in result["low_bits"]["skipped"]
    assert any("--relinearize" in line for line in result["logs"])
    weights = run(model, home, budget=59_000, sensitivity="weights")
    assert "without running the model" in weights["low_bits"]["skipped"]
