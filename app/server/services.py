"""All that a running server is made of, put together once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from fastapi import Depends, Request

from bitbudget.app.artifacts.store import ArtifactStore
from bitbudget.app.auth.quota import RequestQuota
from bitbudget.app.auth.service import KeyService
from bitbudget.app.fit.headers import HeaderReader
from bitbudget.app.fit.service import FitService
from bitbudget.app.http.metrics import Metrics
from bitbudget.app.jobs.cached_polls import JobPolls
from bitbudget.app.jobs.notifications import Pulse
from bitbudget.app.jobs.service import JobService
from bitbudget.app.leases.intake import Intake
from bitbudget.app.leases.service import LeaseService
from bitbudget.app.measurements.cache import MeasurementLibrary
from bitbudget.app.measurements.service import MeasurementService
from bitbudget.app.models.allowed_paths import ModelGate
from bitbudget.app.models.service import ModelService
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import Clock
from bitbudget.app.workers.service import Intervals, MachineService

__all__ = ["Services", "ServicesDependency"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one server."""

    settings: Settings
    clock: Clock
    database: Database
    store: ArtifactStore
    keys: KeyService
    quota: RequestQuota
    jobs: JobService
    leases: LeaseService
    machines: MachineService
    models: ModelService
    measurements: MeasurementService
    fit: FitService
    polls: JobPolls
    pulse: Pulse
    metrics: Metrics

    @classmethod
    def build(cls, settings: Settings, clock: Clock) -> Self:
        """Put the parts together; nothing is opened before it is used."""
        database = Database(settings.resolved_database_url, pool_size=settings.database_pool_size)
        store = ArtifactStore(settings.resolved_artifact_url)
        library = MeasurementLibrary(database)
        gate = ModelGate(settings.allowed_model_roots)
        models = ModelService(database)
        headers = HeaderReader(settings.home_folder, gate, settings.header_readers)
        intervals = Intervals(settings.lease_seconds, settings.renew_seconds, settings.poll_seconds)
        return cls(
            settings=settings,
            clock=clock,
            database=database,
            store=store,
            keys=KeyService(database, clock),
            quota=RequestQuota(settings.requests_per_minute_per_key),
            jobs=JobService(
                database=database,
                store=store,
                library=library,
                gate=gate,
                clock=clock,
                max_open_jobs=settings.max_open_jobs_per_key,
            ),
            leases=LeaseService(
                database=database,
                store=store,
                intake=Intake(library),
                clock=clock,
                lease_seconds=settings.lease_seconds,
                renew_seconds=settings.renew_seconds,
            ),
            machines=MachineService(database, clock, intervals),
            models=models,
            measurements=MeasurementService(database, library),
            fit=FitService(models, headers),
            polls=JobPolls(database),
            pulse=Pulse(database, settings.event_poll_seconds),
            metrics=Metrics(database, clock),
        )


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDependency = Annotated[Services, Depends(_services)]
