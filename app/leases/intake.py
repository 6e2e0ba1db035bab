"""What uploaded documents say, checked before it is believed and then put into tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.orm import Session

from bitbudget.app.artifacts.names import ArtifactName
from bitbudget.app.contract.messages import Report, storable_text
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement, ModelIdentity
from bitbudget.app.core.requests import JobRequest, Rotation
from bitbudget.app.jobs.tables import JobRow
from bitbudget.app.measurements import repository as measurements
from bitbudget.app.measurements.cache import MeasurementLibrary
from bitbudget.app.measurements.solving import answer_of
from bitbudget.app.models import repository as models
from bitbudget.app.storage.database import one_at_a_time

__all__ = ["Document", "Intake", "KnownModel"]

_MAX_MESSAGE: Final = 200
_INTAKE: Final = 0x696E7461


class KnownModel(BaseModel):
    """inventory.json: which weights, and what they are made of."""

    model_config = ConfigDict(extra="ignore")

    model: ModelIdentity
    inventory: Inventory


Document = KnownModel | Measurement | Manifest | Report


@dataclass(frozen=True, slots=True)
class Intake:
    """Reads a document outside the transaction, applies it inside."""

    library: MeasurementLibrary

    def read(self, name: ArtifactName, data: bytes) -> Document:
        """Return what `data` says; InvalidRequestError unless it is what `name` promises."""
        try:
            return _read(name, data)
        except (ValidationError, ValueError, KeyError, RecursionError) as error:
            raise InvalidRequestError(
                where=name,
                found=_wrong(error),
                expected="the document this name stands for",
                remedy="use workers and a server of the same version",
            ) from error

    def apply(self, session: Session, job: JobRow, document: Document, now: datetime) -> None:
        """Put a document of `job` into the tables."""
        if isinstance(document, (KnownModel, Measurement)):
            one_at_a_time(session, _INTAKE)  # two workers may have measured the same model
        match document:
            case KnownModel():
                models.save(session, job.model, document.model, document.inventory, now)
            case Measurement():
                models.save(session, job.model, document.model, document.inventory, now)
                measurements.save(session, document, now)
                request = JobRequest.model_validate(job.request)
                if request.rotation is Rotation.AUTO:  # as `auto` once the job is done
                    found = next((r for r in Rotation if r == document.rotation), Rotation.NONE)
                    request = request.model_copy(update={"rotation": found})
                measurements.remember(session, request, document.key, now)
                job.measurement_id = document.key
            case Manifest():
                job.summary = answer_of(document).model_dump(mode="json")
            case Report():
                pass  # read from the artifact where they are shown

    def applied(self, document: Document) -> None:
        """Forget what was cached of an earlier version of a document."""
        if isinstance(document, Measurement):
            self.library.forget(document.key)


def _read(name: ArtifactName, data: bytes) -> Document:
    match name:
        case ArtifactName.INVENTORY:
            return KnownModel.model_validate_json(data)
        case ArtifactName.MEASUREMENT:
            return _checked(Measurement.from_json(data))
        case ArtifactName.MANIFEST:
            return Manifest.from_bytes(data)
        case _:
            return name.report.model_validate_json(data)


def _wrong(error: Exception) -> str:
    """Return the first thing that is wrong with a document, and where."""
    if not isinstance(error, ValidationError):
        return storable_text(str(error).replace("\n", " "), _MAX_MESSAGE)
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    return storable_text(f"{place}: {first['msg']}", _MAX_MESSAGE)


def _checked(measurement: Measurement) -> Measurement:
    """Refuse curves without modules and modules without curves: no allocation could be made."""
    curves = sorted(curve.path for curve in measurement.curves)
    modules = sorted(module.path for module in measurement.inventory.modules)
    if curves != modules:
        msg = "the curves are not those of the inventory's modules"
        raise ValueError(msg)
    return measurement
