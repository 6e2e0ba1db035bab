"""Every change of a job's state, each with its event row."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from pydantic import JsonValue
from sqlalchemy.orm import Session

from bitbudget.app.contract.events import Progress
from bitbudget.app.contract.leases import LogLine
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import MOST_REVISIONS, JobResult, Revision
from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.jobs import repository
from bitbudget.app.jobs.labels import JobLabels
from bitbudget.app.jobs.status import EventKind, JobStatus
from bitbudget.app.jobs.tables import EventRow, JobRow, RevisionRow

__all__ = ["MAX_STRIKES", "Transitions"]

MAX_STRIKES: Final = 3
"""Attempts that may be lost before a job fails."""


class Transitions:
    """Changes jobs inside one transaction; the caller holds the job's row lock."""

    def __init__(self, session: Session, now: datetime) -> None:
        self._session = session
        self._now = now

    def queued(self, job: JobRow) -> None:
        """A new job waits for a worker."""
        self._session.add(job)
        self._session.flush()
        self._record(job, EventKind.QUEUED, {"model": job.model})

    def started(self, job: JobRow, worker_id: str, worker_name: str) -> None:
        """A worker took the job for one more attempt."""
        job.status = JobStatus.RUNNING
        job.worker_id = worker_id
        job.attempt += 1
        job.started_at = job.started_at or self._now
        self._record(job, EventKind.STARTED, {"attempt": job.attempt, "worker": worker_name})

    def progressed(self, job: JobRow, progress: Progress) -> None:
        """The worker is further than before; a repeated report is not an event.

        Of those of one step the newest stays, however many a worker sends.
        """
        data = progress.model_dump(mode="json")
        if data != job.progress:
            job.progress = data
            repository.delete_progress(self._session, job.id, progress.step)
            self._record(job, EventKind.PROGRESS, data)

    def artifact(self, job: JobRow, name: str, sha256: str, nbytes: int) -> None:
        """A file of the job was stored."""
        self._record(job, EventKind.ARTIFACT, {"name": name, "sha256": sha256, "bytes": nbytes})

    def answered(self, job: JobRow, manifest: Manifest) -> None:
        """The job came to an answer, a new revision of it or one it came to before.

        ConflictError for more revisions than any job has.
        """
        known = repository.revisions(self._session, [job.id]).get(job.id, [])
        row = next((row for row in known if row.sha256 == manifest.sha256), None)
        if row is None:
            row = self._revision(job, manifest, known[-1].number + 1 if known else 1)
        if job.revision != row.number:
            job.revision = row.number
            self._record(job, EventKind.ANSWERED, row.answer)

    def _revision(self, job: JobRow, manifest: Manifest, number: int) -> RevisionRow:
        if number > MOST_REVISIONS:
            raise ConflictError(
                what="Job",
                name=job.id,
                reason=f"has {MOST_REVISIONS} revisions of its answer",
                remedy="a worker uploads two or three: submit the job again",
            )
        answer = Revision.of(manifest, revision=number).model_dump(mode="json")
        row = RevisionRow(job_id=job.id, number=number, sha256=manifest.sha256, answer=answer)
        self._session.add(row)
        self._session.flush()
        return row

    def _answer(self, job: JobRow) -> dict[str, JsonValue] | None:
        row = repository.revision(self._session, job)
        return None if row is None else row.answer

    def logged(self, job: JobRow, lines: Iterable[LogLine]) -> None:
        """The worker told something that people should know."""
        for line in lines:
            told = line.model_dump(mode="json", include={"step", "detail"})
            self._record(job, EventKind.LOG, {"attempt": job.attempt, **told})

    def remarked(self, job: JobRow, detail: str) -> None:
        """The server noticed something that people should know."""
        self._record(job, EventKind.LOG, {"attempt": job.attempt, "step": None, "detail": detail})

    def cancel_requested(self, job: JobRow) -> None:
        """The user wants the job stopped; one that no worker has stops at once."""
        if job.cancel_requested or JobStatus(job.status).is_final:
            return
        job.cancel_requested = True
        self._record(job, EventKind.CANCEL_REQUESTED, {})
        if job.status == JobStatus.QUEUED:
            self.cancelled(job)

    def labelled(self, job: JobRow, labels: JobLabels) -> None:
        """Somebody wrote other tags or another note on the job; of such events the last stays."""
        tags = repository.tags(self._session, [job.id]).get(job.id, [])
        if (job.note, tuple(tags)) == (labels.note, labels.tags):
            return
        job.note = labels.note
        repository.set_tags(self._session, job.id, labels.tags)
        repository.delete_labelled(self._session, job.id)
        self._record(job, EventKind.LABELLED, labels.model_dump(mode="json"))

    def requeued(
        self, job: JobRow, reason: str, *, strike: bool, problem: Problem | None = None
    ) -> None:
        """The attempt was lost: try again, unless cancelled or out of attempts.

        `problem` is what the worker met, where it could still say so.
        """
        told = reason if problem is None else f"{reason}: {problem.detail.rstrip('.')}"
        if strike:
            job.strikes += 1
        if job.cancel_requested:
            self.cancelled(job)
        elif job.strikes >= MAX_STRIKES:
            self.failed(job, _worn_out(told))
        else:
            job.status = JobStatus.QUEUED
            self._record(job, EventKind.REQUEUED, {"attempt": job.attempt, "reason": told})

    def succeeded(self, job: JobRow, result: JobResult | None) -> None:
        """The job came to its end."""
        job.result = None if result is None else result.model_dump(mode="json")
        self._end(job, JobStatus.SUCCEEDED)
        self._record(job, EventKind.SUCCEEDED, {"answer": self._answer(job)})

    def failed(self, job: JobRow, problem: Problem) -> None:
        """The job cannot be done."""
        job.problem = problem.model_dump(mode="json")
        self._end(job, JobStatus.FAILED)
        self._record(job, EventKind.FAILED, {"problem": job.problem})

    def cancelled(self, job: JobRow) -> None:
        """The job was stopped as asked; the answer that it has is kept."""
        self._end(job, JobStatus.CANCELLED)
        self._record(job, EventKind.CANCELLED, {"answer": self._answer(job)})

    def _end(self, job: JobRow, status: JobStatus) -> None:
        job.status = status
        job.finished_at = self._now

    def _record(self, job: JobRow, kind: EventKind, data: dict[str, JsonValue]) -> None:
        self._session.add(EventRow(job_id=job.id, kind=kind, at=self._now, data=data))
        self._session.flush()


def _worn_out(reason: str) -> Problem:
    return Problem.about(
        "attempts-exhausted",
        f"{MAX_STRIKES} attempts were lost, the last because {reason}; "
        "look at the worker's log, then submit the job again",
    )
