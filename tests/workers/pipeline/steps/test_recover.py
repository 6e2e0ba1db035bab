"""Recovery as a step: done once, told, and carried on where a run was killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.core.requests import Recover
from bitbudget.workers.models import Checkpoint, open_checkpoint
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.steps.recover import recover_checkpoint
from tests.workers.recovery.checkpoints import quantized, tiny


@pytest.fixture
def original(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny(tmp_path / "original"))


@pytest.fixture
def rough(original: Checkpoint, tmp_path: Path) -> Path:
    return quantized(original.folder, tmp_path / "rough")


def test_it_is_done_once_and_what_it_won_is_told(original: Checkpoint, rough: Path) -> None:
    events: list[Event] = []
    reporter = Reporter(events.append)
    found = recover_checkpoint(rough, original, Recover.SCALES, reporter, seconds=0)
    assert found["recovery"]["ended"] == "time"
    assert not found["recovery"]["changed"]
    assert any("nothing better (time)" in e.detail for e in events if e.kind == "log")
    (original.folder / "model.safetensors").unlink()
    again = recover_checkpoint(rough, original, Recover.SCALES, reporter, seconds=600)
    assert again == found


def test_without_it_only_what_a_killed_run_left_is_removed(
    original: Checkpoint, rough: Path
) -> None:
    names = sorted(path.name for path in rough.iterdir())
    (rough / "model.safetensors.recovered").write_bytes(b"half")
    reporter = Reporter(lambda _event: None)
    assert recover_checkpoint(rough, original, Recover.NONE, reporter, seconds=1) == {}
    assert sorted(path.name for path in rough.iterdir()) == names


def test_a_run_killed_after_its_decision_is_finished(original: Checkpoint, rough: Path) -> None:
    record = {"how": "scales", "changed": True, "ended": "time"}
    whole = (rough / "model.safetensors").read_bytes()[:-1] + b"!"
    (rough / "model.safetensors.recovered").write_bytes(whole)
    (rough / "recovery.json").write_text(json.dumps(record))
    reporter = Reporter(lambda _event: None)
    found = recover_checkpoint(rough, original, Recover.SCALES, reporter, seconds=600)
    assert found == {"recovery": record}
    assert (rough / "model.safetensors").read_bytes() == whole
