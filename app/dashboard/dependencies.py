"""What routes of pages ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.auth.dependencies import JobsReader
from bitbudget.app.dashboard.service import Dashboard
from bitbudget.app.dashboard.sources import Sources
from bitbudget.app.fit.dependencies import Fits
from bitbudget.app.jobs.dependencies import Jobs
from bitbudget.app.measurements.dependencies import Measurements
from bitbudget.app.models.dependencies import Models
from bitbudget.app.workers.dependencies import Workers

__all__ = ["Pages"]


def _dashboard(
    *,
    jobs: Jobs,
    models: Models,
    measurements: Measurements,
    workers: Workers,
    fits: Fits,
    _: JobsReader,
) -> Dashboard:
    return Dashboard(Sources(jobs, models, measurements, workers, fits))


Pages = Annotated[Dashboard, Depends(_dashboard)]
"""The pages, for whoever may read jobs."""
