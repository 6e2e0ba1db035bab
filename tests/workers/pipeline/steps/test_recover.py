"""Recovery as a step: done once, told, and carried on where a run was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.home import Home
from bitbudget.app.contract.reports import Recovery
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.requests import Recover
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.pipeline.options import MeasureOptions, RecoverOptions
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.run import Delivered, Run, Variant
from bitbudget.workers.pipeline.steps.recover import run_step
from tests.workers.recovery.checkpoints import quantized, tiny


@pytest.fixture
def original(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny(tmp_path / "original"))


@pytest.fixture
def rough(original: Checkpoint, tmp_path: Path) -> Path:
    return quantized(original.folder, tmp_path / "rough")


def recovered(folder: Path, original: Checkpoint, seconds: float, emit: Any) -> Recovery:
    report = Reporter(emit).begin(Step.RECOVER)
    run = Run(Home(folder.parent / "home"), report)
    run.keep(
        RecoverOptions(Recover.SCALES, seconds),
        Delivered(folder, 0),
        Variant(original, build_inventory(original), MeasureOptions()),
    )
    return run_step(run)


def test_it_is_done_once_and_what_it_won_is_told(original: Checkpoint, rough: Path) -> None:
    events: list[Event] = []
    found = recovered(rough, original, 0, events.append)
    assert found.ended == "time"
    assert not found.changed
    assert any("nothing better (time)" in e.detail for e in events if e.kind == "log")
    (original.folder / "config.json").unlink()  # whoever trained now would fail
    assert recovered(rough, original, 600, events.append) == found


def test_a_run_killed_after_its_decision_is_finished(original: Checkpoint, rough: Path) -> None:
    record = recovered(rough, original, 0, lambda _event: None)
    record = record.model_copy(update={"changed": True})
    whole = (rough / "model.safetensors").read_bytes()[:-1] + b"!"
    (rough / "model.safetensors.recovered").write_bytes(whole)
    (rough / "recovery.json").write_bytes(record.to_json())
    assert recovered(rough, original, 600, lambda _event: None) == record
    assert (rough / "model.safetensors").read_bytes() == whole
