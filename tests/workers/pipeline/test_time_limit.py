"""A limit of time chooses the best effort that fits, or says how long the least would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitbudget.app.contract.estimate import effort_seconds
from bitbudget.app.contract.events import Event
from bitbudget.app.contract.reports import JobResult, MeasureResult
from bitbudget.app.contract.stored_speed import write_speed
from bitbudget.app.contract.tasks import JobTask, MeasureTask
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.errors import TooLittleTimeError
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import JobRequest
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.pipeline.tasks import run_task
from tests.workers.rotate.families import FAMILIES, make_model

SLOW = MachineSpeed(1e8, 1e5, 1e7)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_model(tmp_path / "model", "qwen3", FAMILIES["qwen3"])
    write_speed(tmp_path / "home", SLOW)
    return tmp_path / "model"


def minutes_between(model: Path) -> float:
    """Return a time on the slow machine that quick fits, and standard does not."""
    seconds = effort_seconds(build_inventory(open_checkpoint(model)).weights, SLOW)
    assert seconds[Effort.STANDARD] > 2 * seconds[Effort.QUICK]
    return (seconds[Effort.QUICK] + seconds[Effort.STANDARD]) / 120


def job(model: Path, tmp_path: Path, **fields: object) -> tuple[list[Event], JobResult]:
    nbytes = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    stated = {"model": str(model), "budget": int(nbytes * 0.6), **fields}
    request, events = JobRequest.model_validate(stated), list[Event]()
    result = run_task(JobTask(home=str(tmp_path / "home"), request=request), events.append)
    assert isinstance(result, JobResult)
    return events, result


def test_the_best_effort_that_fits_is_taken_and_named(model: Path, tmp_path: Path) -> None:
    events, result = job(model, tmp_path, max_minutes=minutes_between(model))
    manifest = Manifest.from_bytes(Path(result.manifest).read_bytes())
    assert (manifest.effort, manifest.encoder) == (Effort.QUICK, Encoder.CAREFUL)
    told = [event.detail for event in events if event.kind == "log"]
    assert any(detail.startswith("effort quick: the best that fits") for detail in told)


def test_a_stated_encoder_stays(model: Path, tmp_path: Path) -> None:
    task = MeasureTask(
        home=str(tmp_path / "home"),
        model=str(model),
        max_minutes=minutes_between(model),
        encoder=Encoder.MINMAX,
    )
    result = run_task(task, lambda _: None)
    assert isinstance(result, MeasureResult)
    measurement = Measurement.from_json(Path(result.measurement).read_bytes())
    assert (measurement.effort, measurement.encoder) == (Effort.QUICK, Encoder.MINMAX)


def test_a_time_that_nothing_fits_is_refused_with_the_estimate(model: Path, tmp_path: Path) -> None:
    with pytest.raises(TooLittleTimeError, match="effort quick takes about") as refused:
        job(model, tmp_path, max_minutes=0.001)
    assert refused.value.exit_code == 3
    assert refused.value.fields["needed_minutes"] > 0.001
