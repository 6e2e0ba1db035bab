"""All that a running server is made of, put together once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from bitbudget.app.artifacts.store import ArtifactStore
from bitbudget.app.auth.access import Access
from bitbudget.app.auth.quota import RequestQuota
from bitbudget.app.auth.service import KeyService
from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.fit.headers import HeaderReader
from bitbudget.app.fit.service import FitService
from bitbudget.app.followups.service import FollowupService
from bitbudget.app.http.metrics import Metrics
from bitbudget.app.jobs.cached_polls import JobPolls
from bitbudget.app.jobs.checkpoints import Checkpoints
from bitbudget.app.jobs.notifications import Pulse
from bitbudget.app.jobs.service import JobService
from bitbudget.app.jobs.stream import EventStreams
from bitbudget.app.leases import repository as leases
from bitbudget.app.leases.access import LeaseAccess
from bitbudget.app.leases.intake import Intake
from bitbudget.app.leases.service import LeaseService
from bitbudget.app.leases.uploads import Uploads
from bitbudget.app.measurements.cache import MeasurementLibrary
from bitbudget.app.measurements.pool import SolverPool
from bitbudget.app.measurements.service import MeasurementService
from bitbudget.app.models.allowed_paths import ModelGate
from bitbudget.app.models.importing import ImportService
from bitbudget.app.models.service import ModelService
from bitbudget.app.server.settings import Settings
from bitbudget.app.server.stored_counts import StoredCounts
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import Clock
from bitbudget.app.workers.intervals import Intervals
from bitbudget.app.workers.service import WorkerService

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one server."""

    settings: Settings
    clock: Clock
    database: Database
    store: ArtifactStore
    keys: KeyService
    access: Access
    jobs: JobService
    checkpoints: Checkpoints
    leases: LeaseService
    lease_access: LeaseAccess
    followups: FollowupService
    uploads: Uploads
    workers: WorkerService
    models: ModelService
    measurements: MeasurementService
    imports: ImportService
    fit: FitService
    polls: JobPolls
    solving: SolverPool
    pulse: Pulse
    streams: EventStreams
    metrics: Metrics

    def parts(self) -> list[object]:
        """Return every part, for routes to ask for by type."""
        return [getattr(self, field.name) for field in fields(self)]

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
        keys = KeyService(database, clock)
        measurements = MeasurementService(database, library)
        workers = WorkerService(database, clock, intervals, leases.open_jobs)
        access = Access(
            keys,
            RequestQuota(settings.requests_per_minute_per_key),
            settings.needs_keys,
            HomeToken(settings.home_folder),
        )
        pulse = Pulse(database, settings.event_poll_seconds)
        jobs = JobService(
            database=database,
            store=store,
            library=library,
            gate=gate,
            clock=clock,
            max_open_jobs=settings.max_open_jobs_per_key,
        )
        metrics = Metrics()
        metrics.register(StoredCounts(database, clock))
        metrics.watch("bitbudget_event_streams", "Open event streams.", lambda: pulse.listeners)
        return cls(
            settings=settings,
            clock=clock,
            database=database,
            store=store,
            keys=keys,
            access=access,
            jobs=jobs,
            checkpoints=Checkpoints(database, settings.home_folder),
            leases=LeaseService(
                database=database,
                store=store,
                intake=Intake(library),
                clock=clock,
                intervals=intervals,
            ),
            lease_access=LeaseAccess(database, access, clock),
            followups=FollowupService(database, clock, intervals),
            uploads=Uploads(settings.home_folder),
            workers=workers,
            models=models,
            measurements=measurements,
            imports=ImportService(database, measurements, clock),
            fit=FitService(models, headers, workers, settings.home_folder),
            polls=JobPolls(database),
            solving=SolverPool(
                threads=settings.solver_threads,
                per_key=max(settings.solver_threads // 2, 1),
                waiting=settings.solver_waiting_per_key,
                most_seconds=settings.solver_seconds,
            ),
            pulse=pulse,
            streams=EventStreams(pulse, jobs, keys, settings.heartbeat_seconds),
            metrics=metrics,
        )
