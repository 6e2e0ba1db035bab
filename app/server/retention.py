"""What `bitbudget gc` removes: old jobs, and stored bytes that no job needs any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from bitbudget.app.artifacts import repository as artifacts
from bitbudget.app.artifacts.store import ArtifactStore
from bitbudget.app.jobs import repository as jobs
from bitbudget.app.leases import repository as leases
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import utc_now
from bitbudget.app.workers import repository as workers

__all__ = ["Collected", "collect", "collect_garbage"]

_GRACE: Final = timedelta(hours=1)
"""A blob is stored before the row that names it: younger ones may still be on their way."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed."""

    jobs: int
    workers: int
    artifacts: int
    artifact_bytes: int


def collect_garbage(settings: Settings) -> Collected:
    """Clean up the server of these settings; it may be running meanwhile."""
    database = Database(settings.resolved_database_url)
    try:
        store = ArtifactStore(settings.resolved_artifact_url)
        age = timedelta(days=settings.retention_days)
        return collect(database, store, age=age, now=utc_now())
    finally:
        database.dispose()


def collect(
    database: Database, store: ArtifactStore, *, age: timedelta, now: datetime
) -> Collected:
    """Remove jobs that ended longer than `age` ago; measurements and models stay."""
    with database.write() as session:
        removed_jobs = jobs.delete_finished_before(session, now - age)
        removed_workers = workers.delete_idle_since(
            session, now - age, kept=[jobs.worker_ids(), leases.worker_ids()]
        )
    with database.read() as session:
        needed = artifacts.referenced_digests(session) | jobs.referenced_digests(session)
    count, nbytes = store.delete_partial(utc_now() - _GRACE)
    for blob in store.blobs():
        if blob.digest not in needed and utc_now() - blob.put_at > _GRACE:
            store.delete(blob.digest)
            count += 1
            nbytes += blob.nbytes
    return Collected(removed_jobs, removed_workers, count, nbytes)
