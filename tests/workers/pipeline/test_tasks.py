"""What a whole job tells of its steps, where it keeps things, and what a quick task imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.home import Folder
from bitbudget.app.contract.reports import JobResult, Relinearization
from bitbudget.app.contract.steps import Step
from bitbudget.app.contract.tasks import FitTask, JobTask
from bitbudget.app.core import effort
from bitbudget.app.core.effort import EFFORTS, Effort
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import JobRequest
from bitbudget.workers.evaluate import reference
from bitbudget.workers.pipeline.tasks import run_task
from tests.support.efforts import limit_tokens
from tests.workers.models.tiny import write_tiny
from tests.workers.rotate.families import FAMILIES, make_model

HEAVY = (
    "mlx_lm.generate",
    "bitbudget.workers.fisher",
    "bitbudget.workers.evaluate",
    "bitbudget.workers.recovery",
    "bitbudget.workers.quantize",
    "bitbudget.workers.benchmark",
    "huggingface_hub",
)
"""Modules that reading headers does without."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_model(tmp_path / "model", "qwen3", FAMILIES["qwen3"])
    return tmp_path / "model"


def whole_job(
    model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Event], JobResult]:
    """Run a job with every step there is, on little text."""
    limit_tokens(monkeypatch, 1024)
    monkeypatch.setattr(reference, "PROBING_WINDOWS", 1)
    monkeypatch.setattr(effort, "_MOST_VERIFYING", 3)
    request = JobRequest.model_validate(
        {
            "model": str(model),
            "budget": sum(file.stat().st_size for file in model.glob("*.safetensors")) // 2,
            "encoder": "minmax",
            "rotation": "auto",
            "relinearize": True,
            "recover": "scales",
            "recover_seconds": 4,
            "deliver": "checkpoint",
        }
    )
    events: list[Event] = []
    result = run_task(JobTask(home=str(home), request=request), events.append)
    assert isinstance(result, JobResult)
    return events, result


def test_every_event_is_of_its_step_and_none_runs_backwards(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, result = whole_job(model, tmp_path / "home", monkeypatch)
    started = [event.step for event in events if event.kind == "started"]
    assert started == [step for step in Step if step is not Step.PREVIEW], "it is quick already"

    steps = [getattr(event, "step", None) for event in events]
    order = [list(Step).index(step) for step in steps if step is not None]
    assert order == sorted(order)
    assert len(order) == len(events)
    for event in events:
        if event.kind == "artifact":
            assert event.name in event.step.makes

    progress = [event for event in events if event.kind == "progress"]
    assert {event.step for event in progress} == set(Step) - {Step.PREVIEW}
    for before, after in pairwise(progress):
        assert after.job_fraction >= before.job_fraction
        assert after.step is not before.step or after.step_fraction >= before.step_fraction
    assert progress[0].job_fraction < 0.2
    assert progress[-1].job_fraction == pytest.approx(1)

    assert isinstance(result.low_bits, Relinearization)
    assert result.recovery is not None
    assert result.evaluation is not None
    assert result.benchmark is not None
    known = {folder.directory for folder in Folder}
    assert {entry.name for entry in (tmp_path / "home").iterdir()} <= known


def test_a_quick_job_measures_no_checkpoint_and_tells_its_duration(
    model: Path, tmp_path: Path
) -> None:
    nbytes = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    request = JobRequest.model_validate(
        {
            "model": str(model),
            "budget": int(nbytes * 0.6),
            "effort": "quick",
            "deliver": "checkpoint",
        }
    )
    events: list[Event] = []
    result = run_task(JobTask(home=str(tmp_path / "home"), request=request), events.append)
    assert isinstance(result, JobResult)
    assert result.file_bytes <= result.budget_bytes
    assert result.benchmark is None
    assert result.evaluation is not None
    assert result.evaluation.windows == EFFORTS[Effort.QUICK].evaluated_windows
    manifest = Manifest.from_bytes(Path(result.manifest).read_bytes())
    assert (manifest.effort, manifest.encoder) == (Effort.QUICK, Encoder.CAREFUL)
    assert "| effort | quick |" in (Path(result.checkpoint or "") / "README.md").read_text()
    measurement = Measurement.from_json(Path(result.measurement).read_bytes())
    assert measurement.verification is None
    assert any("no checkpoint is measured" in warning for warning in measurement.warnings)

    told = [event.detail for event in events if event.kind == "log"]
    assert any(detail.startswith("effort quick: about") for detail in told)
    progress = [event for event in events if event.kind == "progress"]
    assert any(event.job_fraction > 0.5 for event in progress[:-1])
    assert all(event.seconds_left is not None for event in progress)
    assert (progress[-1].seconds_left or 0) < (progress[0].seconds_left or 0)


def test_a_chat_model_is_measured_on_its_conversations_and_the_card_says_so(
    sample_model: Path, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", "llama", vocab_size=4096)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample_model / name, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}\n")
    request = JobRequest.model_validate(
        {
            "model": str(folder),
            "budget": "1GB",
            "encoder": "gptq",
            "effort": "quick",
            "deliver": "checkpoint",
        }
    )
    result = run_task(JobTask(home=str(tmp_path / "home"), request=request), lambda _: None)
    assert isinstance(result, JobResult)
    measurement = Measurement.from_json(Path(result.measurement).read_bytes())
    assert measurement.text == "chat"
    assert measurement.key != replace(measurement, text="self").key
    assert any("chat text" in warning and "173" in warning for warning in measurement.warnings)
    manifest = Manifest.from_bytes(Path(result.manifest).read_bytes())
    assert (manifest.text, manifest.measurement) == ("chat", measurement.key)
    card = (Path(result.checkpoint or "") / "README.md").read_text()
    assert "| calibration text | the model's own: answers to bundled prompts" in card


def test_a_step_that_is_not_needed_is_not_told(model: Path, tmp_path: Path) -> None:
    request = JobRequest.model_validate(
        {"model": str(model), "budget": "1GB", "sensitivity": "weights"}
    )
    events: list[Event] = []
    run_task(JobTask(home=str(tmp_path / "home"), request=request), events.append)
    begun = [event.step for event in events if event.kind == "started"]
    assert begun == [Step.FETCH, Step.INVENTORY, Step.MEASURE, Step.ALLOCATE]


def test_fit_imports_no_step_but_its_own(model: Path, tmp_path: Path) -> None:
    task = FitTask(home=str(tmp_path / "home"), model=str(model))
    code = f"""
import sys
from bitbudget.app.contract.tasks import FitTask
from bitbudget.workers.models.library import defer_package
from bitbudget.workers.pipeline.tasks import run_task
defer_package()
run_task(FitTask.model_validate_json({task.model_dump_json()!r}), lambda _: None)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
