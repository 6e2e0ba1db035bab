"""The services that pages read from."""

from __future__ import annotations

from dataclasses import dataclass

from bitbudget.app.fit.service import FitService
from bitbudget.app.followups.service import FollowupService
from bitbudget.app.jobs.checkpoints import Checkpoints
from bitbudget.app.jobs.service import JobService
from bitbudget.app.measurements.service import MeasurementService
from bitbudget.app.models.service import ModelService
from bitbudget.app.workers.service import WorkerService

__all__ = ["Sources"]


@dataclass(frozen=True, slots=True)
class Sources:
    """One service of each domain that is shown."""

    jobs: JobService
    models: ModelService
    measurements: MeasurementService
    workers: WorkerService
    fit: FitService
    followups: FollowupService
    checkpoints: Checkpoints
