"""Importing a measurement that somebody else made: data, checked before any of it is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from bitbudget.app.core.errors import ConflictError, InvalidRequestError
from bitbudget.app.core.measurement import Measurement as CoreMeasurement
from bitbudget.app.core.measurement_bounds import is_origin, refusal
from bitbudget.app.core.measurement_file import file_bytes, read_file
from bitbudget.app.core.requests import Rotation
from bitbudget.app.measurements import repository as measurements
from bitbudget.app.measurements.repository import Maker
from bitbudget.app.measurements.rows import PreparedMeasurement
from bitbudget.app.measurements.schemas import Measurement
from bitbudget.app.measurements.service import MeasurementService
from bitbudget.app.models import repository
from bitbudget.app.storage.database import Database, one_at_a_time
from bitbudget.app.storage.ids import Clock

__all__ = ["ImportService"]

_INTAKE = 0x696D706F


@dataclass(frozen=True, slots=True)
class ImportService:
    """Stores measurements that nobody's worker made here, under the digest of their weights.

    No name of a model leads to one: what a name stands for is learnt from workers alone.
    """

    database: Database
    measurements: MeasurementService
    clock: Clock

    def take(self, data: bytes, owner: str, origin: str = "") -> Measurement:
        """Check a file and store what it says; InvalidRequestError names what is wrong with it.

        `origin` is where on the Hub it was taken from, as `[datasets/]org/name@commit`: shown as
        what the importer said.

        ConflictError where another measurement made in this way of these weights is stored already.
        """
        if origin and not is_origin(origin):
            raise refusal("origin", origin, "[datasets/]org/name@commit")
        found = replace(read_file(data), origin=origin)
        prepared = PreparedMeasurement.of(found)
        with self.database.write() as session:
            one_at_a_time(session, _INTAKE)
            self._check_inventory(session, found)
            if not _is_stored(session, found, owner):
                repository.keep(session, found.model, found.inventory, self.clock())
                measurements.save(session, prepared, Maker("", owner), self.clock())
        self.measurements.library.forget(found.key)
        return self.measurements.get(found.key)

    @staticmethod
    def _check_inventory(session: Session, found: CoreMeasurement) -> None:
        known = repository.inventory_of_named(session, found.model.digest)
        if known is None or found.rotation != Rotation.NONE.value or found.inventory == known:
            return
        raise InvalidRequestError(
            where="measurement: inventory",
            found="other modules, shapes or types",
            expected="those that a worker of this server found in these weights",
            remedy="the measurement is damaged or made up: get it from somebody else",
        )


def _is_stored(session: Session, found: CoreMeasurement, owner: str) -> bool:
    """Return whether just this is stored; ConflictError where another is that must stay."""
    row = measurements.find(session, found.key)
    if row is None:
        return False
    stored = measurements.read(session, row)
    if stored is None:
        return False
    if file_bytes(stored) == file_bytes(found):
        return True
    if row.worker_id == "" and row.owner == owner:
        return False
    raise ConflictError(
        what="measurement",
        name=found.key,
        reason="another one of these weights, made in this way, is stored",
        remedy="use that one, or ask an administrator of this server",
    )
