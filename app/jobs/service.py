"""What users do with jobs: submit, look, cancel, fetch the outcome."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import sqlalchemy.exc
from sqlalchemy.orm import Session

from bitbudget.app.artifacts import repository as artifacts
from bitbudget.app.artifacts.names import ArtifactName
from bitbudget.app.artifacts.store import ArtifactStore
from bitbudget.app.auth.principal import Principal
from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.messages import Report
from bitbudget.app.contract.reports import Evaluation
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.errors import (
    BitbudgetError,
    ConflictError,
    InfeasibleBudgetError,
    InvalidRequestError,
    NotFoundError,
)
from bitbudget.app.core.least import check_feasible
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.own_name import OwnName, asked_name
from bitbudget.app.core.requests import Deliver, JobRequest
from bitbudget.app.http.errors import KeyMismatchError, QuotaExceededError
from bitbudget.app.http.pages import Page, cut_page, decode_cursor
from bitbudget.app.jobs import repository
from bitbudget.app.jobs.access import check_owner
from bitbudget.app.jobs.given import GivenMeasurements
from bitbudget.app.jobs.labels import NO_LABELS, JobLabels, LabelChange
from bitbudget.app.jobs.repository import Wanted
from bitbudget.app.jobs.schemas import AllocationSummary, Job, JobEvent, JobReport
from bitbudget.app.jobs.status import JobStatus
from bitbudget.app.jobs.summary import allocation_summary
from bitbudget.app.jobs.tables import JobRow
from bitbudget.app.jobs.transitions import Transitions
from bitbudget.app.jobs.views import event_view, job_lines, job_view
from bitbudget.app.measurements import repository as measurements
from bitbudget.app.measurements.cache import MeasurementLibrary
from bitbudget.app.measurements.solving import Solved, solve, solve_best
from bitbudget.app.models import repository as models
from bitbudget.app.models.allowed_paths import ModelGate
from bitbudget.app.storage.database import Database, one_at_a_time
from bitbudget.app.storage.ids import Clock, new_id
from bitbudget.app.storage.stored import read_stored

__all__ = ["JobService"]

_LOG: Final = logging.getLogger(__name__)
_MOST_REQUEST_BYTES: Final = 2**16
_FIRST: Final = (ArtifactName.FIRST_MEASUREMENT, ArtifactName.FIRST_MANIFEST)
Document = TypeVar("Document", bound=Report)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A measurement for a job, and the answer that it gives, where that needs no worker."""

    measurement_id: str
    measurement_json: bytes
    solved: Solved | None
    names: tuple[ArtifactName, ArtifactName] = (ArtifactName.MEASUREMENT, ArtifactName.MANIFEST)

    @property
    def is_first(self) -> bool:
        """Whether it is a first answer, which a worker refines."""
        return self.names == _FIRST

    @property
    def is_last(self) -> bool:
        """Whether it is all that a job for a manifest wants."""
        return self.solved is not None and not self.is_first


@dataclass(frozen=True, slots=True)
class JobService:
    """Jobs, as users see them."""

    database: Database
    store: ArtifactStore
    library: MeasurementLibrary
    gate: ModelGate
    clock: Clock
    max_open_jobs: int

    def submit(
        self,
        request: JobRequest,
        principal: Principal,
        key: str | None,
        labels: JobLabels = NO_LABELS,
    ) -> Job:
        """Queue a job, or answer it at once from a stored measurement.

        Raises InfeasibleBudgetError, KeyMismatchError, QuotaExceededError, InvalidRequestError.
        """
        asked, written = request.model_dump(mode="json"), labels.model_dump(mode="json")
        body = canonical_json({**asked, **written})
        _check_length(body)
        digest = sha256_of(body)
        earlier = self._earlier(principal, key, digest)
        if earlier is not None:
            return earlier
        self.gate.check(request.model)
        ready = self._ready(request)
        try:
            return self._insert(request, principal, key, digest, ready=ready, labels=labels)
        except sqlalchemy.exc.IntegrityError:
            earlier = self._earlier(principal, key, digest)
            if earlier is None:
                raise
            return earlier

    def get(self, job_id: str) -> Job:
        """Return a job as it is now."""
        with self.database.read() as session:
            return job_view(session, repository.get(session, job_id))

    def page(self, cursor: str | None, limit: int, wanted: Wanted) -> Page[Job]:
        """Return a page of the wanted jobs, newest first."""
        key = decode_cursor(cursor, (str,))
        before = None if key is None else str(key[0])
        with self.database.read() as session:
            rows = repository.page(session, before=before, limit=limit, wanted=wanted)
            kept, following = cut_page(rows, limit, lambda row: [row.id])
            return Page[Job](items=job_lines(session, kept), next_cursor=following)

    def cancel(self, job_id: str, principal: Principal) -> Job:
        """Ask for a job to be stopped; a finished one stays as it is.

        ForbiddenError unless the caller submitted it, or is an admin.
        """
        with self.database.write() as session:
            row = repository.lock(session, job_id)
            check_owner(row, principal)
            Transitions(session, self.clock()).cancel_requested(row)
            return job_view(session, row)

    def label(self, job_id: str, change: LabelChange, principal: Principal) -> Job:
        """Change the tags or the note of a job, in whatever state it is.

        ForbiddenError unless the caller submitted it, or is an admin.
        """
        with self.database.write() as session:
            row = repository.lock(session, job_id)
            check_owner(row, principal)
            tags = repository.tags(session, [job_id]).get(job_id, [])
            labels = JobLabels(
                tags=tuple(tags) if change.tags is None else change.tags,
                note=row.note if change.note is None else change.note,
            )
            Transitions(session, self.clock()).labelled(row, labels)
            return job_view(session, row)

    def events(self, job_id: str, after: int) -> tuple[list[JobEvent], bool]:
        """Return the next events of a job, and whether there can be more after them."""
        with self.database.read() as session:
            row = repository.get(session, job_id)
            found = repository.events_after(session, job_id, after)
            return [event_view(event) for event in found], not JobStatus(row.status).is_final

    def manifest(self, job_id: str, revision: int | None = None) -> bytes:
        """Return the manifest's bytes, of a revision or of the answer that counts now.

        ConflictError while there is none yet.
        """
        with self.database.read() as session:
            row = repository.revision(session, repository.get(session, job_id), revision)
        if row is None:
            what = "no manifest" if revision is None else f"no revision {revision}"
            raise ConflictError(
                what="Job",
                name=job_id,
                reason=f"has {what} yet",
                remedy=f"follow /v1/jobs/{job_id}/events until it has",
            )
        return self.store.get(row.sha256)

    def report(self, job_id: str) -> JobReport:
        """Return what is known of a job's outcome."""
        job = self.get(job_id)
        return JobReport(
            job=job,
            allocation=None if job.answer is None else self._allocation(job_id),
            evaluation=self._document(job_id, ArtifactName.EVALUATION, Evaluation),
            benchmark=self._document(job_id, ArtifactName.BENCHMARK, Benchmark),
        )

    def notes(self, job_id: str) -> list[JobEvent]:
        """Return the newest lines of a job's log and why attempts were lost, in order."""
        with self.database.read() as session:
            return [event_view(event) for event in repository.notes(session, job_id)]

    def _allocation(self, job_id: str) -> AllocationSummary | None:
        """Summarize a manifest; one of a version that wrote it differently is downloaded only."""
        try:
            return allocation_summary(Manifest.from_bytes(self.manifest(job_id)))
        except InvalidRequestError:
            return None

    def _artifact(self, job_id: str, name: ArtifactName) -> bytes | None:
        with self.database.read() as session:
            repository.get(session, job_id)
            row = artifacts.find(session, job_id, name)
        return None if row is None else self.store.get(row.sha256)

    def _document(self, job_id: str, name: ArtifactName, kind: type[Document]) -> Document | None:
        data = self._artifact(job_id, name)
        return None if data is None else read_stored(kind, data, f"{name} of job {job_id}")

    def _earlier(self, principal: Principal, key: str | None, digest: str) -> Job | None:
        if key is None:
            return None
        with self.database.read() as session:
            row = repository.by_idempotency_key(session, principal.owner, key)
            if row is None:
                return None
            if row.request_digest != digest:
                raise KeyMismatchError(key=key)
            return job_view(session, row)

    def is_answerable(self, request: JobRequest) -> bool:
        """Whether stored curves may answer a request, which then is solved."""
        if request.measurement is not None:
            return True
        with self.database.read() as session:
            if measurements.find_for(session, request):
                return True
            quick = request.at_effort(Effort.QUICK)
            return request.may_preview and bool(measurements.find_for(session, quick))

    def _ready(self, request: JobRequest) -> _Ready | None:
        if request.measurement is not None:
            return self._given(request)
        ready = self._solve_stored(request)
        if ready is not None:
            return ready
        self._refuse_infeasible(request)
        return self._first_answer(request)

    def _given(self, request: JobRequest) -> _Ready:
        """Answer from the measurement that the request names, or leave its weights to a worker."""
        given = GivenMeasurements(self.database, self.library)
        found = given.of(request)
        called = _called(found, request)
        if given.is_proven(found, request):
            return _Ready(found.key, called.to_json(), solve(called, request))
        self._refuse_infeasible(request)
        return _Ready(found.key, called.to_json(), None)

    def _first_answer(self, request: JobRequest) -> _Ready | None:
        """Answer at quick effort from stored curves, where there are such.

        They may allow nothing where the wanted ones do: then there is no answer yet.
        """
        if not request.may_preview:
            return None
        try:
            found = self._solve_stored(request.at_effort(Effort.QUICK))
        except InfeasibleBudgetError:
            return None
        return None if found is None else replace(found, names=_FIRST)

    def _solve_stored(self, request: JobRequest) -> _Ready | None:
        with self.database.read() as session:
            names = measurements.find_for(session, request)
        try:
            found = [_called(self.library.get(name), request) for name in names]
        except NotFoundError:  # removed between the two looks
            return None
        if not found:
            return None
        try:
            measurement, solved = solve_best(found, request)
        except BitbudgetError:
            raise
        except (ValueError, LookupError, ArithmeticError, TypeError):
            _LOG.exception("measurements %s answer nothing: a worker measures again", names)
            return None
        return _Ready(measurement.key, measurement.to_json(), solved)

    def _refuse_infeasible(self, request: JobRequest) -> None:
        """Raise InfeasibleBudgetError where the headers of a known model tell so already."""
        with self.database.read() as session:
            inventory = models.inventory_by_name(session, request.model)
        if inventory is not None and not request.allow_quantized_source:
            check_feasible(inventory, request)

    def _insert(
        self,
        request: JobRequest,
        principal: Principal,
        key: str | None,
        digest: str,
        *,
        ready: _Ready | None,
        labels: JobLabels,
    ) -> Job:
        now = self.clock()
        row = JobRow(
            id=new_id(now),
            status=JobStatus.QUEUED,
            request=request.model_dump(mode="json"),
            model=request.model,
            owner=principal.owner,
            idempotency_key=key,
            request_digest=digest,
            created_at=now,
        )
        with self.database.write() as session:
            if repository.count_open(session, principal.owner) >= self.max_open_jobs:
                raise QuotaExceededError(what="Open jobs of this key", limit=self.max_open_jobs)
            transitions = Transitions(session, now)
            transitions.queued(row)
            transitions.labelled(row, labels)
            if ready is not None:
                self._attach(session, transitions, row, ready)
                if request.deliver is Deliver.MANIFEST and ready.is_last:
                    transitions.succeeded(row, None)
            return job_view(session, row)

    def _attach(
        self, session: Session, transitions: Transitions, row: JobRow, ready: _Ready
    ) -> None:
        """Give a new job the measurement and its answer, so that no worker makes them again."""
        row.measurement_id = ready.measurement_id
        one_at_a_time(session, artifacts.BLOBS)
        solved = ready.solved
        files = (ready.measurement_json, *(() if solved is None else (solved.data,)))
        for name, data in zip(ready.names, files, strict=False):
            digest = self.store.put(data)
            artifacts.save(
                session,
                job_id=row.id,
                name=name,
                sha256=digest,
                nbytes=len(data),
                attempt=0,
                now=row.created_at,
            )
            transitions.artifact(row, name, digest, len(data))
        if solved is not None:
            transitions.answered(row, solved.manifest)


def _check_length(body: bytes) -> None:
    """Refuse a request too long for lists, which show every job's."""
    if len(body) > _MOST_REQUEST_BYTES:
        raise InvalidRequestError(
            where="request",
            found=f"{len(body)} bytes",
            expected=f"at most {_MOST_REQUEST_BYTES}",
            remedy="pin modules by globs instead of one by one",
        )


def _called(measurement: Measurement, request: JobRequest) -> Measurement:
    """Return the measurement of a model called as the request has it.

    What is stored may have been made of another folder with the same weights, whose name is nobody
    else's business.
    """
    model = measurement.model
    name = asked_name(request.model, request.name, OwnName(model.name, model.revision))
    return replace(measurement, model=replace(model, name=name.name, revision=name.revision))
