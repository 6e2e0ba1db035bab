"""How a worker gets a job, keeps it, and answers for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from bitbudget.app.artifacts import repository as artifacts
from bitbudget.app.artifacts.names import ArtifactName
from bitbudget.app.artifacts.store import ArtifactStore
from bitbudget.app.auth.tokens import Token, TokenKind, hash_secret, new_secret
from bitbudget.app.contract.leases import (
    LeaseGrant,
    LeaseOutcome,
    LeaseRenewal,
    LeaseResult,
    LeaseStatus,
    StoredArtifact,
)
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import JobResult, Revision
from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.errors import ConflictError, LostLeaseError, NotFoundError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import JobRequest, Rotation
from bitbudget.app.http.errors import DigestMismatchError
from bitbudget.app.jobs import repository as jobs
from bitbudget.app.jobs.tables import JobRow
from bitbudget.app.jobs.transitions import Transitions
from bitbudget.app.leases import repository
from bitbudget.app.leases.checks import Assignment, KnownModel
from bitbudget.app.leases.intake import Intake
from bitbudget.app.leases.tables import LeaseRow
from bitbudget.app.measurements import repository as measurements
from bitbudget.app.measurements.repository import Maker
from bitbudget.app.storage.database import Database, one_at_a_time
from bitbudget.app.storage.ids import Clock, new_id
from bitbudget.app.storage.stored import read_stored
from bitbudget.app.workers import repository as workers
from bitbudget.app.workers.intervals import Intervals
from bitbudget.app.workers.tables import WorkerRow

__all__ = ["LeaseService"]

_LOG: Final = logging.getLogger(__name__)
_CHECKED_AGAINST: Final[Mapping[ArtifactName, tuple[ArtifactName, ...]]] = {
    ArtifactName.MEASUREMENT: (ArtifactName.INVENTORY,),
    ArtifactName.MANIFEST: (ArtifactName.MEASUREMENT,),
    ArtifactName.FIRST_MEASUREMENT: (ArtifactName.INVENTORY,),
    ArtifactName.FIRST_MANIFEST: (ArtifactName.FIRST_MEASUREMENT,),
}
_FIRST: Final = (ArtifactName.FIRST_MEASUREMENT, ArtifactName.FIRST_MANIFEST)
_UNREADABLE: Final = Problem.about(
    "unreadable-request",
    "what is stored of this request cannot be read by this version of the server; "
    "submit the job again",
)


@dataclass(frozen=True, slots=True)
class LeaseService:
    """Leases, as workers see them."""

    database: Database
    store: ArtifactStore
    intake: Intake
    clock: Clock
    intervals: Intervals

    def claim(self, worker_id: str) -> LeaseGrant | None:
        """Give the oldest queued job to a worker, None when there is none."""
        now = self.clock()
        with self.database.write() as session:
            worker = workers.get(session, worker_id)
            worker.seen_at = now
            transitions = Transitions(session, now)
            while (job := jobs.next_queued(session)) is not None:
                request = read_stored(JobRequest, job.request, f"job {job.id}")
                if request is not None:
                    transitions.started(job, worker.id, worker.name)
                    return self._grant(session, job, request, worker, now)
                transitions.failed(job, _UNREADABLE)
        return None

    def _grant(
        self,
        session: Session,
        job: JobRow,
        request: JobRequest,
        worker: WorkerRow,
        now: datetime,
    ) -> LeaseGrant:
        secret = new_secret()
        lease = LeaseRow(
            id=new_id(now),
            job_id=job.id,
            attempt=job.attempt,
            worker_id=worker.id,
            token_hash=hash_secret(secret),
            claimed_at=now,
            lease_until=self._lease_until(now),
        )
        session.add(lease)
        session.flush()
        return LeaseGrant(
            lease_id=lease.id,
            job_id=job.id,
            attempt=job.attempt,
            token=str(Token(TokenKind.LEASE, lease.id, secret)),
            lease_until=lease.lease_until,
            lease_seconds=self.intervals.lease_seconds,
            renew_seconds=self.intervals.renew_seconds,
            request=request,
            artifacts=_stored(session, job.id),
        )

    def renew(self, lease_id: str, renewal: LeaseRenewal) -> LeaseStatus:
        """Keep a lease; LostLeaseError once the attempt is over."""
        now = self.clock()
        with self.database.write() as session:
            lease, job = self._hold(session, lease_id, renewal.attempt)
            lease.lease_until = self._lease_until(now)
            workers.get(session, lease.worker_id).seen_at = now
            if renewal.progress is not None:
                Transitions(session, now).progressed(job, renewal.progress)
            new = [line for line in renewal.log if line.number > lease.log_lines]
            Transitions(session, now).logged(job, new)
            lease.log_lines = max([lease.log_lines, *(line.number for line in new)])
            return LeaseStatus(lease_until=lease.lease_until, cancel=job.cancel_requested)

    def put_artifact(
        self, lease_id: str, attempt: int, name: ArtifactName, expected: str, data: bytes
    ) -> StoredArtifact:
        """Store a file of an attempt and take in what it says.

        Raises LostLeaseError, DigestMismatchError, InvalidRequestError.
        """
        with self.database.read() as session:
            lease = repository.get(session, lease_id)
            self._check(lease, attempt)
            known = {row.name: row.sha256 for row in artifacts.of_job(session, lease.job_id)}
            job = jobs.get(session, lease.job_id)
            request = _request(job)
        found = sha256_of(data)
        if found != expected:
            raise DigestMismatchError(expected=expected, found=found)
        document = self.intake.read(name, data)
        self.intake.check(document, self._assignment(request, name, known))
        prepared = self.intake.prepare(document)
        self.store.put(data)
        now = self.clock()
        with self.database.write() as session:
            lease, job = self._hold(session, lease_id, attempt)
            worker = workers.get(session, lease.worker_id)
            one_at_a_time(session, artifacts.BLOBS)
            self.store.keep(data, found)
            replaced = artifacts.find(session, job.id, name)
            unneeded = None if replaced is None else replaced.sha256
            artifacts.save(
                session,
                job_id=job.id,
                name=name,
                sha256=found,
                nbytes=len(data),
                attempt=attempt,
                now=now,
            )
            maker = Maker(worker.id, worker.owner)
            transitions = Transitions(session, now)
            transitions.artifact(job, name, found, len(data))
            remark = self.intake.apply(session, job, prepared, maker, now)
            if remark is not None:
                _LOG.warning("job %s, worker %s: %s", job.id, worker.id, remark)
                transitions.remarked(job, remark)
        self.intake.applied(prepared)
        self._release(unneeded)
        return StoredArtifact(name=name, sha256=found, bytes=len(data))

    def _release(self, digest: str | None) -> None:
        """Remove a blob that was replaced, unless an artifact or a revision still has it."""
        if digest is None:
            return
        with self.database.write() as session:
            one_at_a_time(session, artifacts.BLOBS)
            if not (artifacts.is_needed(session, digest) or jobs.is_answer(session, digest)):
                self.store.delete(digest)

    def _assignment(
        self, request: JobRequest, name: ArtifactName, known: Mapping[str, str]
    ) -> Assignment:
        """Return the job with those of its documents that `name` is checked against."""
        documents = {
            other: self.intake.read(other, self.store.get(known[other]))
            for other in _CHECKED_AGAINST.get(name, ())
            if other in known
        }
        inventory = documents.get(ArtifactName.INVENTORY)
        measurement = documents.get(ArtifactName.MEASUREMENT) or documents.get(
            ArtifactName.FIRST_MEASUREMENT
        )
        return Assignment(
            request.at_effort(Effort.QUICK) if name in _FIRST else request,
            inventory if isinstance(inventory, KnownModel) else None,
            measurement if isinstance(measurement, Measurement) else None,
        )

    def get_artifact(self, lease_id: str, attempt: int, name: ArtifactName) -> bytes:
        """Return a file of the leased job."""
        with self.database.read() as session:
            lease = repository.get(session, lease_id)
            self._check(lease, attempt)
            row = artifacts.find(session, lease.job_id, name)
        if row is None:
            raise NotFoundError(what="artifact", name=name)
        return self.store.get(row.sha256)

    def finish(self, lease_id: str, result: LeaseResult) -> None:
        """End an attempt; the same end sent again is accepted, any other is a lost lease."""
        digest = sha256_of(result.model_dump_json().encode())
        now = self.clock()
        with self.database.write() as session:
            lease = repository.get(session, lease_id)
            job = jobs.lock(session, lease.job_id)
            lease = repository.lock(session, lease_id)
            if lease.attempt == result.attempt and lease.result_digest == digest:
                return
            self._check(lease, result.attempt)
            _end(session, job, result, now)
            lease.outcome = result.outcome
            lease.problem = (
                None if result.problem is None else result.problem.model_dump(mode="json")
            )
            lease.ended_at = now
            lease.result_digest = digest

    def shorten(self) -> int:
        """End leases within one term from now: those made before the clock was set back do not."""
        with self.database.write() as session:
            return repository.end_within(session, self._lease_until(self.clock()))

    def sweep(self) -> int:
        """Requeue the jobs whose leases ran out; return how many there were."""
        now = self.clock()
        with self.database.read() as session:
            found = [lease.id for lease in repository.expired(session, now)]
        return sum(self._expire(lease_id, now) for lease_id in found)

    def _expire(self, lease_id: str, now: datetime) -> bool:
        with self.database.write() as session:
            job = jobs.lock(session, repository.get(session, lease_id).job_id)
            lease = repository.lock(session, lease_id)
            if lease.ended_at is not None or lease.lease_until >= now:
                return False
            lease.outcome = LeaseOutcome.EXPIRED
            lease.ended_at = now
            session.flush()
            Transitions(session, now).requeued(job, "its worker stopped answering", strike=True)
            return True

    def _hold(self, session: Session, lease_id: str, attempt: int) -> tuple[LeaseRow, JobRow]:
        """Return an open lease and its job, both locked, the job first as everywhere."""
        job = jobs.lock(session, repository.get(session, lease_id).job_id)
        lease = repository.lock(session, lease_id)
        self._check(lease, attempt)
        return lease, job

    def _check(self, lease: LeaseRow, attempt: int) -> None:
        if lease.attempt != attempt:
            raise LostLeaseError(
                lease=lease.id, attempt=attempt, reason=f"it is attempt {lease.attempt}'s"
            )
        if lease.ended_at is not None:
            raise LostLeaseError(
                lease=lease.id, attempt=attempt, reason=f"the attempt ended: {lease.outcome}"
            )

    def _lease_until(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self.intervals.lease_seconds)


def _stored(session: Session, job_id: str) -> tuple[StoredArtifact, ...]:
    return tuple(
        StoredArtifact(name=row.name, sha256=row.sha256, bytes=row.nbytes)
        for row in artifacts.of_job(session, job_id)
    )


def _request(job: JobRow) -> JobRequest:
    """Return what a job asks for; ConflictError where that cannot be read."""
    request = read_stored(JobRequest, job.request, f"job {job.id}")
    if request is None:
        raise _conflict(job, "has a request that this version cannot read")
    return request


def _final_answer(session: Session, job: JobRow) -> Revision:
    """Return the answer of the uploaded manifest.json; ConflictError where that does not count."""
    row = jobs.revision(session, job)
    manifest = artifacts.find(session, job.id, ArtifactName.MANIFEST)
    answer = None if row is None else read_stored(Revision, row.answer, f"job {job.id}")
    if manifest is None or answer is None or manifest.sha256 != answer.manifest_sha256:
        raise _conflict(job, "has no manifest.json that is its newest answer")
    return answer


def _check_same_answer(job: JobRow, answer: Revision, result: JobResult) -> None:
    """Raise ConflictError for a result that is not of the manifest that was uploaded."""
    if answer.manifest_sha256 != result.sha256:
        raise _conflict(job, f"holds another manifest than that of the result, {result.sha256}")
    for name in ("file_bytes", "budget_bytes", "predicted_kl_nats_per_token", "bound", "gap"):
        found, expected = getattr(result, name), getattr(answer, name)
        if found != expected:
            raise _conflict(job, f"has a manifest with {name} {expected}, the result says {found}")
    if result.measurement_key != job.measurement_id:
        raise _conflict(job, f"has measurement {job.measurement_id}, the result says another")


def _check_budget(job: JobRow, answer: Revision) -> None:
    """Raise ConflictError for more bytes than were asked for, whatever was checked before."""
    budget = _request(job).budget_bytes
    if budget is not None and answer.file_bytes > budget:
        raise _conflict(job, f"has a budget of {budget} bytes, the manifest {answer.file_bytes}")


def _conflict(job: JobRow, reason: str) -> ConflictError:
    remedy = "upload measurement.json and the result's manifest.json before the result"
    return ConflictError(what="Job", name=job.id, reason=reason, remedy=remedy)


def _end(session: Session, job: JobRow, result: LeaseResult, now: datetime) -> None:
    transitions = Transitions(session, now)
    match result.outcome:
        case LeaseOutcome.SUCCEEDED:
            answer = _final_answer(session, job)
            _check_budget(job, answer)
            if result.result is not None:
                _check_same_answer(job, answer, result.result)
            transitions.succeeded(job, result.result)
            request = _request(job)
            if request.rotation is Rotation.AUTO and job.measurement_id is not None:
                measurements.remember(session, request, job.measurement_id, now)
        case LeaseOutcome.FAILED if result.problem is not None:
            transitions.failed(job, result.problem)
        case LeaseOutcome.CANCELLED if job.cancel_requested:
            transitions.cancelled(job)
        case LeaseOutcome.CRASHED:
            transitions.requeued(job, "it crashed", strike=True, problem=result.problem)
        case _:
            transitions.requeued(job, "its worker went away", strike=False)
