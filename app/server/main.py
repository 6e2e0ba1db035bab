"""The application, made from its settings; importing this module does nothing else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

import anyio
from anyio import to_thread
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from bitbudget.app.core.manifest import Manifest
from bitbudget.app.dashboard.actions import router as actions_router
from bitbudget.app.dashboard.page_route import missing_page
from bitbudget.app.dashboard.router import router as dashboard_router
from bitbudget.app.fit.router import router as fit_router
from bitbudget.app.followups.router import router as followups_router
from bitbudget.app.http import docs, problems
from bitbudget.app.http.body_limit import BodyLimitMiddleware
from bitbudget.app.http.dependencies import provide
from bitbudget.app.http.middleware import RequestMiddleware
from bitbudget.app.jobs.checkpoint_router import router as checkpoint_router
from bitbudget.app.jobs.repository import newest_id
from bitbudget.app.jobs.router import router as jobs_router
from bitbudget.app.jobs.schemas import JobEvent
from bitbudget.app.leases.router import router as leases_router
from bitbudget.app.measurements.router import router as measurements_router
from bitbudget.app.models.imports import router as imports_router
from bitbudget.app.models.router import router as models_router
from bitbudget.app.server.operations import router as system_router
from bitbudget.app.server.services import Services
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.ids import Clock, ClockWatch, continue_after, utc_now
from bitbudget.app.workers.router import router as workers_router
from bitbudget.distribution import installed_version

__all__ = ["create_app"]

_log: Final = logging.getLogger(__name__)
_ABOUT: Final = "The best mixed-precision quantization of a language model that fits, to the byte."


def create_app(settings: Settings, *, clock: Clock = utc_now) -> FastAPI:
    """Return the application; its database must have been migrated."""
    services = Services.build(settings, clock)
    app = FastAPI(
        title="bitbudget",
        version=installed_version(),
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.services = services
    provide(app, services, *services.parts())
    problems.install(app, missing_page=missing_page)
    for router in (
        jobs_router,
        leases_router,
        checkpoint_router,
        followups_router,
        workers_router,
        models_router,
        measurements_router,
        imports_router,
        fit_router,
        system_router,
    ):
        app.include_router(router)
    app.include_router(actions_router)
    app.include_router(dashboard_router)
    docs.install(app, models=(Manifest, JobEvent, problems.ProblemDetails))
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=settings.max_body_bytes,
        max_artifact_bytes=settings.max_artifact_bytes,
    )
    app.add_middleware(
        RequestMiddleware,
        metrics=services.metrics,
        hosts=settings.answered_hosts,
        takes_forwarded=settings.needs_keys,
    )
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    await to_thread.run_sync(_go_on, services)
    try:
        async with anyio.create_task_group() as background:
            background.start_soon(services.pulse.run)
            background.start_soon(_sweep, services)
            yield
            services.pulse.stop()
            background.cancel_scope.cancel()
    finally:
        services.database.dispose()


def _go_on(services: Services) -> None:
    """Keep the order of jobs and the term of leases though the clock was set back meanwhile."""
    with services.database.read() as session:
        continue_after(newest_id(session))
    services.leases.shorten()


async def _sweep(services: Services) -> None:
    """Requeue expired leases now and then, for as long as the server runs.

    Leases that ran out while the server was away get one more term first, so that workers which
    went on working can renew them. So do those that a clock set forward would end.
    """
    term = services.settings.lease_seconds
    await anyio.sleep(term)
    watch = ClockWatch(services.clock)
    while True:
        jumped = watch.jumped_seconds()
        if jumped > term / 4:
            _log.warning("the clock was set %.0f s forward: leases get one more term", jumped)
            await anyio.sleep(term)
            watch.jumped_seconds()
        try:
            if jumped < -term / 4:
                await to_thread.run_sync(services.leases.shorten)
            requeued = await to_thread.run_sync(services.leases.sweep)
        except SQLAlchemyError:
            _log.exception("sweep failed, trying again")
        else:
            if requeued:
                _log.warning("requeued %d jobs whose leases ran out", requeued)
        await anyio.sleep(services.settings.sweep_seconds)
