"""Every table of the database, for whoever needs the whole metadata."""

from __future__ import annotations

from app.artifacts.tables import ArtifactRow
from app.auth.tables import KeyRow
from app.database import Base
from app.jobs.tables import EventRow, JobRow
from app.leases.tables import LeaseRow
from app.machines.tables import WorkerRow
from app.measurements.tables import MeasurementNameRow, MeasurementRow, TensorRow
from app.models.tables import ModelNameRow, ModelRow

__all__ = [
    "ArtifactRow",
    "Base",
    "EventRow",
    "JobRow",
    "KeyRow",
    "LeaseRow",
    "MeasurementNameRow",
    "MeasurementRow",
    "ModelNameRow",
    "ModelRow",
    "TensorRow",
    "WorkerRow",
]
