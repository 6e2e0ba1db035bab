"""What uploaded documents say, checked before it is believed and then put into tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Final

from pydantic import ValidationError
from sqlalchemy.orm import Session

from bitbudget.app.artifacts.names import ArtifactName
from bitbudget.app.contract.messages import Report, storable_text
from bitbudget.app.contract.untrusted import Untrusted
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import JobRequest, Rotation
from bitbudget.app.jobs.tables import JobRow
from bitbudget.app.jobs.transitions import Transitions
from bitbudget.app.leases.checks import Assignment, KnownModel
from bitbudget.app.measurements import repository as measurements
from bitbudget.app.measurements.cache import MeasurementLibrary
from bitbudget.app.measurements.repository import Maker
from bitbudget.app.measurements.rows import PreparedMeasurement
from bitbudget.app.models import repository as models
from bitbudget.app.storage.database import one_at_a_time

__all__ = ["Document", "Intake"]

_MAX_MESSAGE: Final = 200
_NUL: Final = rb"\u0000"
_INTAKE: Final = 0x696E7461


Document = KnownModel | Measurement | Manifest | Report
Prepared = KnownModel | PreparedMeasurement | Manifest | Report
"""A document as the transaction takes it."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Reads a document outside the transaction, applies it inside."""

    library: MeasurementLibrary

    def read(self, name: ArtifactName, data: bytes) -> Document:
        """Return what `data` says; InvalidRequestError unless it is what `name` promises."""
        try:
            document = _read(name, data)
        except (ValidationError, ValueError, RecursionError) as error:
            raise _refused(name, _wrong(error)) from error
        if _NUL in data:
            raise _refused(name, "NUL in a text")
        return document

    def check(self, document: Document, assignment: Assignment) -> None:
        """Raise InvalidRequestError for a document that is not of the job it was made for."""
        match document:
            case KnownModel():
                assignment.check_model(document.model, document.inventory)
            case Measurement():
                assignment.check_measurement(document)
            case Manifest():
                assignment.check_manifest(document)
            case Report():
                pass

    def prepare(self, document: Document) -> Prepared:
        """Return a document as `apply` takes it: what takes long is done outside a transaction."""
        if isinstance(document, Measurement):
            return PreparedMeasurement.of(document)
        return document

    def apply(
        self, session: Session, job: JobRow, document: Prepared, maker: Maker, now: datetime
    ) -> str | None:
        """Put a document of `job` into the tables; return what an operator should hear of it."""
        if isinstance(document, (KnownModel, PreparedMeasurement)):
            one_at_a_time(session, _INTAKE)  # two workers may have measured the same model
        match document:
            case KnownModel():
                models.save(session, job.model, document.model, document.inventory, now)
            case PreparedMeasurement():
                return _keep_measurement(session, job, document, maker, now)
            case Manifest():
                Transitions(session, now).answered(job, document)
            case Report():
                pass  # read from the artifact where they are shown
        return None

    def applied(self, document: Prepared) -> None:
        """Forget what was cached of an earlier version of a document."""
        if isinstance(document, PreparedMeasurement):
            self.library.forget(document.key)


def _read(name: ArtifactName, data: bytes) -> Document:
    return _reader(name).read(data)


@cache
def _reader(name: ArtifactName) -> Untrusted[Document]:
    match name:
        case ArtifactName.INVENTORY:
            return Untrusted[Document](KnownModel)
        case ArtifactName.MEASUREMENT | ArtifactName.FIRST_MEASUREMENT:
            return Untrusted[Document](Measurement)
        case ArtifactName.MANIFEST | ArtifactName.FIRST_MANIFEST:
            return Untrusted[Document](Manifest)
        case _:
            return Untrusted[Document](name.report)


def _refused(name: ArtifactName, found: str) -> InvalidRequestError:
    return InvalidRequestError(
        where=name,
        found=found,
        expected="the document this name stands for",
        remedy="use workers and a server of the same version",
    )


def _wrong(error: Exception) -> str:
    """Return the first thing that is wrong with a document, and where."""
    if not isinstance(error, ValidationError):
        return storable_text(str(error).replace("\n", " "), _MAX_MESSAGE)
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    return storable_text(f"{place}: {first['msg']}", _MAX_MESSAGE)


def _keep_measurement(
    session: Session, job: JobRow, prepared: PreparedMeasurement, maker: Maker, now: datetime
) -> str | None:
    request = JobRequest.model_validate(job.request)
    if request.measurement is not None:  # this worker did not make it, and no name leads to it
        return None
    document = prepared.measurement
    models.save(session, job.model, document.model, document.inventory, now)
    kept = measurements.save(session, prepared, maker, now)
    job.measurement_id = prepared.key
    if not kept:
        return (
            f"measurement {prepared.key} was stored before by another worker, with other curves:"
            " those stay, this job goes on with its own"
        )
    if request.effort is not document.effort:  # that of a first answer, or chosen by the time
        request = request.at_effort(document.effort)
    if request.rotation is Rotation.AUTO:  # as `auto` once the job is done
        found = next((r for r in Rotation if r == document.rotation), Rotation.NONE)
        request = request.model_copy(update={"rotation": found})
    measurements.remember(session, request, prepared.key, now)
    return None
