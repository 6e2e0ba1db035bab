"""A job whose measurement is given: which stored one it is, and whether it answers at once."""

from __future__ import annotations

from dataclasses import dataclass

from bitbudget.app.core.errors import InvalidRequestError, NotFoundError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.measurement_way import check_way
from bitbudget.app.core.requests import JobRequest, Rotation
from bitbudget.app.measurements.cache import MeasurementLibrary
from bitbudget.app.models import repository as models
from bitbudget.app.storage.database import Database

__all__ = ["GivenMeasurements"]


@dataclass(frozen=True, slots=True)
class GivenMeasurements:
    """Stored measurements that requests name by their ids."""

    database: Database
    library: MeasurementLibrary

    def of(self, request: JobRequest) -> Measurement:
        """Return the measurement that a request names.

        InvalidRequestError where none has this id, or it was made otherwise than the job asks.
        """
        wanted = request.measurement or ""
        try:
            found = self.library.get(wanted)
        except NotFoundError as error:
            raise InvalidRequestError(
                where="measurement",
                found=f"none with id {wanted}",
                expected="the id of a measurement that this server has",
                remedy="import it first: POST /v1/measurements, or bitbudget submit --measurement",
            ) from error
        check_way(found, request)
        return found

    def is_proven(self, measurement: Measurement, request: JobRequest) -> bool:
        """Whether a worker has read these weights, and just these modules, under the model's name.

        Where none has, a worker compares them before anything is allocated. The modules of rotated
        weights are never those that were read.
        """
        if measurement.rotation != Rotation.NONE.value or request.allow_quantized_source:
            return False
        with self.database.read() as session:
            row = models.by_name(session, request.model)
            if row is None or row.digest != measurement.model.digest:
                return False
            return models.inventory_of_named(session, row.digest) == measurement.inventory
