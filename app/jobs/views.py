"""Rows of jobs as the API shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from bitbudget.app.contract.events import Problem, Progress
from bitbudget.app.contract.leases import Capabilities
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.jobs.schemas import Answer, Job, JobEvent, JobWorker
from bitbudget.app.jobs.status import EventKind, JobStatus
from bitbudget.app.jobs.tables import EventRow, JobRow
from bitbudget.app.workers import repository as machines
from bitbudget.app.workers.tables import WorkerRow

__all__ = ["event_view", "job_view", "job_views"]


def job_views(session: Session, rows: Iterable[JobRow]) -> list[Job]:
    """Return jobs with their workers, in the order given."""
    listed: Sequence[JobRow] = list(rows)
    workers = machines.by_id(session, {row.worker_id for row in listed if row.worker_id})
    return [_view(row, workers.get(row.worker_id or "")) for row in listed]


def job_view(session: Session, row: JobRow) -> Job:
    """Return one job."""
    return job_views(session, [row])[0]


def _view(row: JobRow, worker: WorkerRow | None) -> Job:
    return Job(
        id=row.id,
        status=JobStatus(row.status),
        cancel_requested=row.cancel_requested,
        request=JobRequest.model_validate(row.request),
        attempt=row.attempt,
        progress=None if row.progress is None else Progress.model_validate(row.progress),
        worker=None if worker is None else _worker(worker),
        measurement_id=row.measurement_id,
        answer=None if row.summary is None else Answer.model_validate(row.summary),
        result=row.result,
        problem=None if row.problem is None else Problem.model_validate(row.problem),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _worker(row: WorkerRow) -> JobWorker:
    return JobWorker(
        id=row.id, name=row.name, capabilities=Capabilities.model_validate(row.capabilities)
    )


def event_view(row: EventRow) -> JobEvent:
    """Return one event."""
    return JobEvent(
        id=row.id, job_id=row.job_id, kind=EventKind(row.kind), at=row.at, data=row.data
    )
