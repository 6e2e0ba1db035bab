"""Rows of jobs as the API shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pydantic import BaseModel
from sqlalchemy.orm import Session

from bitbudget.app.contract.events import Progress
from bitbudget.app.contract.leases import Capabilities
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import JobResult, Revision
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.jobs import repository
from bitbudget.app.jobs.schemas import Job, JobEvent, JobWorker
from bitbudget.app.jobs.status import EventKind, JobStatus
from bitbudget.app.jobs.tables import EventRow, JobRow, RevisionRow
from bitbudget.app.storage.stored import read_stored
from bitbudget.app.workers import repository as workers_repository
from bitbudget.app.workers.tables import WorkerRow

__all__ = ["event_view", "job_lines", "job_view"]

Part = TypeVar("Part", bound=BaseModel)
_LONG: Final = ("pins", "floors", "formats")
_LISTED_ENTRIES: Final = 16
_LISTED_CHARACTERS: Final = 8192


def _views(session: Session, rows: Iterable[JobRow]) -> list[Job]:
    """Return jobs with their workers, in the order given."""
    listed: Sequence[JobRow] = list(rows)
    workers = workers_repository.by_id(session, {row.worker_id for row in listed if row.worker_id})
    revisions = repository.revisions(session, [row.id for row in listed])
    tags = repository.tags(session, [row.id for row in listed])
    return [
        _view(
            row, workers.get(row.worker_id or ""), revisions.get(row.id, []), tags.get(row.id, [])
        )
        for row in listed
    ]


def job_lines(session: Session, rows: Iterable[JobRow]) -> list[Job]:
    """Return jobs as lists show them: what is long of each is left out, and says so."""
    return [_short(job) for job in _views(session, rows)]


def job_view(session: Session, row: JobRow) -> Job:
    """Return one job."""
    return _views(session, [row])[0]


def _view(
    row: JobRow,
    worker: WorkerRow | None,
    revisions: Sequence[RevisionRow],
    tags: Sequence[str],
) -> Job:
    parts = _Parts(row.id)
    read = [parts.read("answer", Revision, each.answer or {}) for each in revisions]
    answers = tuple(each for each in read if each is not None)
    request = parts.read("request", JobRequest, row.request or {})
    return Job(
        id=row.id,
        status=JobStatus(row.status),
        cancel_requested=row.cancel_requested,
        request=request or JobRequest.model_construct(model=row.model, min_safe=True),
        attempt=row.attempt,
        progress=parts.read("progress", Progress, row.progress),
        worker=None if worker is None else _worker(worker, parts),
        measurement_id=row.measurement_id,
        answer=next((each for each in answers if each.revision == row.revision), None),
        revisions=answers,
        result=parts.read("result", JobResult, row.result),
        problem=parts.read("problem", Problem, row.problem),
        tags=tuple(tags),
        note=row.note,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        unreadable=tuple(parts.unreadable),
    )


def _short(job: Job) -> Job:
    request = job.request
    long = [name for name in _LONG if len(getattr(request, name) or ()) > _LISTED_ENTRIES]
    left_out: dict[str, object] = {
        name: JobRequest.model_fields[name].get_default(call_default_factory=True) for name in long
    }
    is_long = job.result is not None and len(job.result.model_dump_json()) > _LISTED_CHARACTERS
    return job.model_copy(
        update={
            "request": request.model_copy(update=left_out),
            "result": None if is_long else job.result,
            "omitted": (*(f"request.{name}" for name in long), *(["result"] if is_long else [])),
        }
    )


@dataclass
class _Parts:
    """Reads the parts of a row and collects the names of those that cannot be read."""

    job_id: str
    unreadable: list[str] = field(default_factory=list)

    def read(self, name: str, kind: type[Part], value: object) -> Part | None:
        found = None if value is None else read_stored(kind, value, f"job {self.job_id}")
        if found is None and value is not None:
            self.unreadable.append(name)
        return found


def _worker(row: WorkerRow, parts: _Parts) -> JobWorker | None:
    found = parts.read("worker", Capabilities, row.capabilities or {})
    return None if found is None else JobWorker(id=row.id, name=row.name, capabilities=found)


def event_view(row: EventRow) -> JobEvent:
    """Return one event."""
    return JobEvent(
        id=row.id,
        job_id=row.job_id,
        kind=EventKind(row.kind),
        at=row.at,
        data=row.data if isinstance(row.data, dict) else {"unreadable": True},
    )
