"""Measurements ready to be asked: read once, kept while they are in use."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from threading import Lock
from typing import Final

from bitbudget.app.core.frontier import Frontier, frontier
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.measurements import repository
from bitbudget.app.measurements.solving import searched
from bitbudget.app.storage.database import Database

__all__ = ["MeasurementLibrary"]

_KEPT: Final = 16
"""Measurements kept in memory; one of an 8B model takes a few megabytes."""


class MeasurementLibrary:
    """A bounded cache over the database, safe to use from many threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = Lock()
        self._measurements: OrderedDict[str, Measurement] = OrderedDict()
        self._frontiers: OrderedDict[tuple[str, float, int], Frontier] = OrderedDict()

    def get(self, measurement_id: str) -> Measurement:
        """Return a measurement; NotFoundError when there is none."""
        with self._lock:
            known = self._measurements.get(measurement_id)
            if known is not None:
                self._measurements.move_to_end(measurement_id)
                return known
        with self._database.read() as session:
            found = repository.load(session, measurement_id)
        with self._lock:
            self._measurements[measurement_id] = found
            if len(self._measurements) > _KEPT:
                self._measurements.popitem(last=False)
        return found

    def frontier(self, measurement_id: str, sqnr_floor_db: float, points: int) -> Frontier:
        """Return the frontier of a measurement; NotFoundError when there is none."""
        measurement = self.get(measurement_id)
        key = (measurement_id, sqnr_floor_db, points)
        with self._lock:
            known = self._frontiers.get(key)
        if known is not None:
            return known
        work = partial(frontier, sqnr_floor_db=sqnr_floor_db, max_points=points)
        made = searched(work, measurement)
        with self._lock:
            self._frontiers[key] = made
            if len(self._frontiers) > _KEPT:
                self._frontiers.popitem(last=False)
        return made

    def forget(self, measurement_id: str) -> None:
        """Read a measurement again when it is next asked for: it was made anew."""
        with self._lock:
            self._measurements.pop(measurement_id, None)
            for key in [key for key in self._frontiers if key[0] == measurement_id]:
                del self._frontiers[key]
