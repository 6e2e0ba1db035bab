"""What `watch` shows of a job's events."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bitbudget.app.cli.following import as_progress
from bitbudget.app.contract.events import Logged, Progressed
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.jobs.schemas import JobEvent
from bitbudget.app.jobs.status import EventKind

_TOLD = {
    EventKind.PROGRESS,
    EventKind.ANSWERED,
    EventKind.LOG,
    EventKind.STARTED,
    EventKind.REQUEUED,
}


def event(kind: EventKind, data: JsonObject) -> JobEvent:
    return JobEvent(id=7, job_id="x", kind=kind, at=datetime.now(UTC), data=data)


@pytest.mark.parametrize("data", [{"unreadable": True}, {"step": [], "detail": None}])
@pytest.mark.parametrize("kind", EventKind)
def test_an_event_that_cannot_be_read_is_told_as_such(kind: EventKind, data: JsonObject) -> None:
    shown = as_progress(event(kind, data), "http://127.0.0.1:8000")
    if "unreadable" in data and kind in _TOLD:
        assert isinstance(shown, Logged)
        assert shown.detail == f"event 7, {kind}, cannot be read"


def test_progress_is_shown() -> None:
    told = event(EventKind.PROGRESS, {"step": "measure", "done": 1, "total": 2})
    assert isinstance(as_progress(told, "http://127.0.0.1:8000"), Progressed)
