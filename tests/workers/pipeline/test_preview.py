"""A first answer at quick effort: when there is one, and what it announces."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitbudget.app.contract.durations import Work, is_previewed, measuring_s, preview_s
from bitbudget.app.contract.events import Event
from bitbudget.app.contract.reports import JobResult
from bitbudget.app.contract.steps import Step
from bitbudget.app.contract.tasks import JobTask, MeasureTask
from bitbudget.app.core import effort
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest, JobRequest
from bitbudget.workers.evaluate import reference
from bitbudget.workers.pipeline.tasks import run_task
from tests.support.efforts import limit_tokens
from tests.workers.rotate.families import FAMILIES, make_model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    limit_tokens(monkeypatch, 1024)
    monkeypatch.setattr(reference, "PROBING_WINDOWS", 1)
    monkeypatch.setattr(effort, "_MOST_VERIFYING", 3)
    make_model(tmp_path / "model", "qwen3", FAMILIES["qwen3"])
    return tmp_path / "model"


def budget(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors")) // 2


def test_a_job_answers_first_at_quick_effort_and_ends_with_the_same_bytes(
    model: Path, tmp_path: Path
) -> None:
    def job(home: str, *, preview: bool | None) -> tuple[list[Event], JobResult]:
        request = JobRequest(model=str(model), budget=budget(model), preview=preview)
        events = list[Event]()
        result = run_task(JobTask(home=str(tmp_path / home), request=request), events.append)
        assert isinstance(result, JobResult)
        return events, result

    events, result = job("home", preview=True)
    answers = [event for event in events if event.kind == "answered"]
    assert [(each.answer.revision, each.answer.effort) for each in answers] == [
        (1, Effort.QUICK),
        (2, Effort.STANDARD),
    ]
    assert [each.step for each in answers] == [Step.PREVIEW, Step.ALLOCATE]
    first = Manifest.from_bytes(Path(answers[0].path).read_bytes())
    assert (first.effort, first.file_bytes <= budget(model)) == (Effort.QUICK, True)
    names = [event.name for event in events if event.kind == "artifact"]
    assert names == [
        "inventory.json",
        "first_measurement.json",
        "first_manifest.json",
        "measurement.json",
        "manifest.json",
    ]
    fractions = [e.job_fraction for e in events if e.kind == "progress"]
    assert fractions == sorted(fractions)

    again, _ = job("home", preview=True)
    assert [e.answer.effort for e in again if e.kind == "answered"] == [Effort.STANDARD]

    alone, plain = job("alone", preview=None)  # seconds: not worth a first answer
    assert Step.PREVIEW not in [event.step for event in alone if event.kind == "started"]
    assert Path(plain.manifest).read_bytes() == Path(result.manifest).read_bytes()


def test_an_allocation_is_previewed_at_once_from_a_quick_measurement(
    model: Path, tmp_path: Path
) -> None:
    def measure(effort: Effort, asked: AllocationRequest | None) -> list[Event]:
        events = list[Event]()
        task = MeasureTask(
            home=str(tmp_path / "home"), model=str(model), effort=effort, budget=asked
        )
        run_task(task, events.append)
        return events

    told = measure(Effort.QUICK, None)
    quick = next(e.path for e in told if e.kind == "artifact" and e.name == "measurement.json")
    events = measure(Effort.STANDARD, AllocationRequest(budget=budget(model)))
    answered = [event for event in events if event.kind == "answered"]
    assert [(each.step, each.answer.revision) for each in answered] == [(Step.PREVIEW, 1)]
    manifest = Manifest.from_bytes(Path(answered[0].path).read_bytes())
    assert manifest.measurement == Measurement.from_json(Path(quick).read_bytes()).key


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Work(135_000_000, 210), True),
        (Work(135_000_000, 210, preview=False), False),
        (Work(135_000_000, 210, is_measured=True), False),
        (Work(135_000_000, 210, effort=Effort.QUICK), False),
        (Work(135_000_000, 210, runs=False), False),
        (Work(260_000, 36), False),  # the wanted answer takes half a minute
        (Work(260_000, 36, preview=True), True),
    ],
)
def test_a_first_answer_is_given_where_it_is_worth_its_time(work: Work, *, expected: bool) -> None:
    assert is_previewed(work) is expected
    assert (preview_s(work) > 0) is expected
    if expected and work.preview is None:
        assert preview_s(work) <= measuring_s(work) / 5
