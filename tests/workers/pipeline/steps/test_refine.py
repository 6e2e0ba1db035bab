"""The evaluation of a finished checkpoint corrects what is predicted of the next budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.tasks import JobTask
from bitbudget.app.core import effort
from bitbudget.app.core.calibration import UNCALIBRATED
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import JobRequest
from bitbudget.workers.evaluate import reference
from bitbudget.workers.pipeline.tasks import run_task
from tests.support.efforts import limit_tokens

BUDGET = 70_000
"""About 3 bits per weight: the errors are large beside the noise of a few windows."""


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tokens(monkeypatch, 2048)
    monkeypatch.setattr(reference, "PROBING_WINDOWS", 2)
    monkeypatch.setattr(effort, "_MOST_VERIFYING", 6)


def run(
    model: Path,
    home: Path,
    budget: int = BUDGET,
    sensitivity: str = "fisher",
    **earlier: str,
) -> tuple[dict[str, Any], list[str]]:
    request = JobRequest(
        model=str(model),
        budget=budget,
        sensitivity=sensitivity,
        sqnr_floor_db=0,
        relinearize=False,
        deliver="checkpoint",
    )
    events: list[Event] = []
    task = JobTask(home=str(home), request=request, baseline=True, **earlier)
    result = run_task(task, events.append).model_dump(mode="json")
    return result, [event.name for event in events if event.kind == "artifact"]


def test_a_second_budget_is_predicted_by_what_the_first_one_lost(
    tmp_path: Path, large_errors_model: Path
) -> None:
    model, home = large_errors_model, tmp_path / "home"
    first, names = run(model, home)
    assert names.count("measurement.json") == 2
    measured = first["evaluation"]["kl_nats_per_token"]
    stored = Path(first["measurement"])
    refined = Measurement.from_json(stored.read_bytes())
    law = refined.calibration
    low, high = first["predicted_kl_interval_95"]
    assert low <= first["predicted_kl_nats_per_token"] <= high
    expected = first["predicted_kl_nats_per_token"]
    now = min(law.measured, key=lambda kl: abs(kl - measured))
    assert abs(now - measured) < abs(expected - measured)

    again, _ = run(model, home)
    assert again["sha256"] == first["sha256"]
    assert again["evaluation"] == first["evaluation"]
    for side in ("uniform", "ours_at_equal_bytes"):
        assert again["baseline"][side]["evaluation"] == first["baseline"][side]["evaluation"]
    assert stored.read_bytes() == refined.to_json()

    other = tmp_path / "other"  # an attempt there, after this one was killed at its very end
    moved, _ = run(model, other, measurement=first["measurement"], manifest=first["manifest"])
    assert moved["sha256"] == first["sha256"]
    assert moved["evaluation"]["kl_per_window"] == first["evaluation"]["kl_per_window"]
    rivals = [each["baseline"]["ours_at_equal_bytes"]["file_bytes"] for each in (moved, first)]
    assert rivals[0] == rivals[1]

    second, _ = run(model, home, BUDGET + 300)
    lost = second["evaluation"]["kl_nats_per_token"]
    assert second["predicted_kl_nats_per_token"] == pytest.approx(lost, rel=0.25)


def test_a_kl_does_not_calibrate_a_share_of_weight_error(
    tmp_path: Path, large_errors_model: Path
) -> None:
    first, names = run(large_errors_model, tmp_path, sensitivity="weights")
    stored = Measurement.from_json(Path(first["measurement"]).read_bytes())
    assert stored.calibration == UNCALIBRATED
    assert names.count("measurement.json") == 1
    second, _ = run(large_errors_model, tmp_path, BUDGET + 300, "weights")
    assert second["predicted_kl_nats_per_token"] <= first["predicted_kl_nats_per_token"]
