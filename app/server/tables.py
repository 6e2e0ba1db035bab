"""Every table of the database, for whoever needs the whole metadata."""

from __future__ import annotations

from bitbudget.app.artifacts.tables import ArtifactRow
from bitbudget.app.auth.tables import KeyRow
from bitbudget.app.followups.tables import FollowupRow
from bitbudget.app.jobs.tables import EventRow, JobRow
from bitbudget.app.leases.tables import LeaseRow
from bitbudget.app.measurements.tables import MeasurementNameRow, MeasurementRow, TensorRow
from bitbudget.app.models.tables import ModelNameRow, ModelRow
from bitbudget.app.storage.schema import Base
from bitbudget.app.workers.tables import WorkerRow

__all__ = [
    "ArtifactRow",
    "Base",
    "EventRow",
    "FollowupRow",
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
