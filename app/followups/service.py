"""How a checkpoint is tried or published by the worker that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from bitbudget.app.auth.principal import Principal
from bitbudget.app.contract.followups import (
    CompareText,
    FollowupEnd,
    FollowupGrant,
    FollowupRequest,
    FollowupResult,
    Publish,
)
from bitbudget.app.contract.leases import Capabilities
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import UploadResult
from bitbudget.app.contract.texts import TextComparison
from bitbudget.app.core.errors import ConflictError, InvalidRequestError, NotFoundError
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.followups import repository
from bitbudget.app.followups.schemas import Followup, FollowupKind, FollowupStatus
from bitbudget.app.followups.tables import FollowupRow
from bitbudget.app.http.errors import QuotaExceededError
from bitbudget.app.jobs import repository as jobs
from bitbudget.app.jobs.access import check_owner
from bitbudget.app.jobs.checkpoints import checkpoint_result, finished_result
from bitbudget.app.jobs.tables import JobRow
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import Clock, new_id
from bitbudget.app.storage.stored import read_adapted, read_stored
from bitbudget.app.workers import repository as workers
from bitbudget.app.workers.intervals import Intervals

__all__ = ["FollowupService"]

_WAITS: Final = timedelta(hours=1)
"""How long a follow-up waits for its worker."""
_MOST_OPEN: Final = 8
"""Follow-ups of one owner at once: each takes a worker from the jobs that wait."""
_ASKED: Final[TypeAdapter[CompareText | Publish]] = TypeAdapter(FollowupRequest)
_RESULT: Final[TypeAdapter[TextComparison | UploadResult]] = TypeAdapter(FollowupResult)
_LOST: Final = Problem.about(
    "no-answer",
    "the worker that holds the checkpoint did not answer; see that it runs, then ask again",
    status=504,
)


_UNREADABLE: Final = Problem.about(
    "unreadable-follow-up",
    "what is stored of it cannot be read by this version of the server; ask again",
)


@dataclass(frozen=True, slots=True)
class FollowupService:
    """Follow-ups, as users and workers see them."""

    database: Database
    clock: Clock
    intervals: Intervals

    def ask(self, job_id: str, asked: CompareText | Publish, principal: Principal) -> Followup:
        """Ask for something to be done with a job's checkpoint; it takes the place of the last.

        Raises ForbiddenError unless the caller submitted the job or is an admin, ConflictError when
        there is no checkpoint or the last of this kind is not over, QuotaExceededError.
        """
        now, kind = self.clock(), FollowupKind(asked.kind)
        with self.database.write() as session:
            job = jobs.lock(session, job_id)
            check_owner(job, principal)
            finished_result(job)
            if isinstance(asked, Publish):
                _check_published(session, job, asked)
            last = repository.of_kind(session, job_id, kind)
            if last is not None and not _status(last, now).is_final:
                raise _conflict(job_id, f"the last {kind} is not over", "wait for it")
            if repository.count_open(session, job.owner, now) >= _MOST_OPEN:
                raise QuotaExceededError(what="Open follow-ups of this key", limit=_MOST_OPEN)
            if last is not None:
                session.delete(last)
                session.flush()
            row = FollowupRow(
                id=new_id(now),
                job_id=job_id,
                kind=kind,
                asked=asked.model_dump(mode="json"),
                created_at=now,
                alive_until=now + _WAITS,
            )
            session.add(row)
            session.flush()
            return _view(row, now)

    def of_job(self, job_id: str) -> list[Followup]:
        """Return the newest follow-up of each kind; NotFoundError without the job."""
        with self.database.read() as session:
            jobs.get(session, job_id)
            return [_view(row, self.clock()) for row in repository.of_job(session, job_id)]

    def publishes_to(self, job_id: str) -> str:
        """Return the Hub namespace that a job's worker may publish to, "" where none."""
        with self.database.read() as session:
            job = jobs.get(session, job_id)
            return "" if job.worker_id is None else _publishes_to(session, job)

    def claim(self, worker_id: str) -> FollowupGrant | None:
        """Give the oldest follow-up on a job that this worker did, None when there is none.

        One that cannot be read fails.
        """
        now = self.clock()
        with self.database.write() as session:
            worker = workers.get(session, worker_id)
            while (row := repository.next_for(session, worker, now)) is not None:
                worker.seen_at = row.started_at = now
                row.worker_id, row.alive_until = worker.id, self._renewed(now)
                granted = self._granted(row, jobs.get(session, row.job_id))
                if granted is not None:
                    return granted
                row.ended_at, row.problem = now, _UNREADABLE.model_dump(mode="json")
                session.flush()
        return None

    def _granted(self, row: FollowupRow, job: JobRow) -> FollowupGrant | None:
        request = read_stored(JobRequest, job.request, f"job {job.id}")
        result = checkpoint_result(job)
        asked = _asked(row)
        if request is None or result is None or asked is None:
            return None
        return FollowupGrant(
            followup_id=row.id,
            job_id=job.id,
            request=request,
            manifest_sha256=result.sha256,
            asked=asked,
            renew_seconds=self.intervals.renew_seconds,
        )

    def renew(self, followup_id: str, worker_id: str) -> None:
        """Keep a follow-up; ConflictError once it is over."""
        now = self.clock()
        with self.database.write() as session:
            row = self._open(session, followup_id, worker_id, now)
            row.alive_until = self._renewed(now)
            workers.get(session, worker_id).seen_at = now

    def end(self, followup_id: str, end: FollowupEnd) -> None:
        """Take what came of it; ConflictError once it is over."""
        now = self.clock()
        with self.database.write() as session:
            row = self._open(session, followup_id, end.worker_id, now)
            if end.result is not None and not _answers(end.result, row):
                raise InvalidRequestError(
                    where="result",
                    found=type(end.result).__name__,
                    expected=f"the result of {row.kind}",
                    remedy="use workers and a server of the same version",
                )
            row.ended_at = now
            row.result = None if end.result is None else end.result.model_dump(mode="json")
            row.problem = None if end.problem is None else end.problem.model_dump(mode="json")

    def _open(
        self, session: Session, followup_id: str, worker_id: str, now: datetime
    ) -> FollowupRow:
        row = repository.lock(session, followup_id)
        if row.worker_id != worker_id:
            raise NotFoundError(what="follow-up of this worker", name=followup_id)
        if _status(row, now).is_final:
            raise ConflictError(
                what="Follow-up",
                name=followup_id,
                reason="it is over",
                remedy="leave it and ask for the next",
            )
        return row

    def _renewed(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self.intervals.lease_seconds)


def _check_published(session: Session, job: JobRow, asked: Publish) -> None:
    """Raise ConflictError unless the worker publishes to this namespace."""
    allowed = _publishes_to(session, job)
    if allowed != asked.namespace:
        may = f"only to {allowed}" if allowed else "nowhere"
        raise _conflict(
            job.id,
            f"its worker publishes {may}",
            f"start it with --publish-to {asked.namespace}, or run `bitbudget upload` there",
        )


def _publishes_to(session: Session, job: JobRow) -> str:
    """Return the namespace that the worker of a job publishes to since it was last started."""
    row = workers.latest(session, workers.get(session, job.worker_id or ""))
    known = read_stored(Capabilities, row.capabilities, f"worker {row.id}")
    return "" if known is None else known.publishes_to


def _conflict(job_id: str, reason: str, remedy: str) -> ConflictError:
    return ConflictError(what="Job", name=job_id, reason=reason, remedy=remedy)


def _answers(result: TextComparison | UploadResult, row: FollowupRow) -> bool:
    asked = _asked(row)
    if isinstance(asked, CompareText):
        return isinstance(result, TextComparison) and result.prompt == asked.prompt
    if isinstance(asked, Publish):
        return isinstance(result, UploadResult) and result.repository == asked.repository
    return False


def _asked(row: FollowupRow) -> CompareText | Publish | None:
    return read_adapted(_ASKED, row.asked, "request", f"follow-up {row.id}")


def _status(row: FollowupRow, now: datetime) -> FollowupStatus:
    if row.ended_at is not None:
        return FollowupStatus.FAILED if row.result is None else FollowupStatus.DONE
    if row.alive_until < now:
        return FollowupStatus.FAILED
    return FollowupStatus.QUEUED if row.started_at is None else FollowupStatus.RUNNING


def _view(row: FollowupRow, now: datetime) -> Followup:
    status, asked, where = _status(row, now), _asked(row), f"follow-up {row.id}"
    result = problem = None
    if row.result is not None:
        result = read_adapted(_RESULT, row.result, "result", where)
    if row.problem is not None:
        problem = read_stored(Problem, row.problem, where)
    is_readable = asked is not None and (result is not None or row.result is None)
    if status is FollowupStatus.FAILED and problem is None and is_readable:
        problem = _LOST if row.problem is None else _UNREADABLE
    return Followup(
        id=row.id,
        job_id=row.job_id,
        kind=FollowupKind(row.kind),
        status=status if is_readable else FollowupStatus.FAILED,
        asked=asked,
        result=result,
        problem=problem if is_readable else _UNREADABLE,
        created_at=row.created_at,
    )
