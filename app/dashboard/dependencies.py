"""What routes of pages ask of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Protocol, TypeVar

from fastapi import Depends, Request

from bitbudget.app.auth.dependencies import JobsReader
from bitbudget.app.core.devices import DEVICES
from bitbudget.app.dashboard.service import Dashboard
from bitbudget.app.dashboard.sources import Sources
from bitbudget.app.fit.dependencies import Fits
from bitbudget.app.fit.remembered import remembered_device
from bitbudget.app.followups.dependencies import Followups
from bitbudget.app.jobs.dependencies import CheckpointStore, Jobs
from bitbudget.app.measurements.dependencies import Measurements, Solving
from bitbudget.app.models.dependencies import Models
from bitbudget.app.workers.dependencies import Workers

__all__ = ["DEVICE_COOKIE", "Pages", "Solve"]

DEVICE_COOKIE: Final = "bitbudget_device"
"""Keeps the device that a reader chose."""


def _dashboard(
    *,
    jobs: Jobs,
    models: Models,
    measurements: Measurements,
    workers: Workers,
    fits: Fits,
    followups: Followups,
    checkpoints: CheckpointStore,
    request: Request,
    principal: JobsReader,
) -> Dashboard:
    chosen = request.cookies.get(DEVICE_COOKIE)
    mine = chosen if chosen in DEVICES else remembered_device(fits.headers.home)
    sources = Sources(jobs, models, measurements, workers, fits, followups, checkpoints)
    return Dashboard(sources, mine, principal, str(request.base_url).rstrip("/"))


Pages = Annotated[Dashboard, Depends(_dashboard)]
"""The pages, for whoever may read jobs."""

Result = TypeVar("Result")


class _Solve(Protocol):
    async def __call__(self, work: Callable[[], Result]) -> Result:
        """Return what `work` does in a thread of the solvers."""


def _solve(request: Request, pool: Solving, principal: JobsReader) -> _Solve:
    async def solve(work: Callable[[], Result]) -> Result:
        return await pool.run(request, principal.owner, work)

    return solve


Solve = Annotated[_Solve, Depends(_solve)]
"""Runs what solves where nothing else waits for it."""
