"""What becomes of leases while the server is away."""

from __future__ import annotations

import time
from pathlib import Path

from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import utc_now
from bitbudget.app.storage.migrate import upgrade
from tests.support.http import FakeClock, FakeWorker, Server, opened

LEASE_SECONDS = 1.0


def test_a_worker_that_outlived_the_server_keeps_its_lease(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, lease_seconds=LEASE_SECONDS, sweep_seconds=0.05)
    database = Database(settings.resolved_database_url)
    upgrade(database)
    database.dispose()
    with opened(create_app(settings, clock=utc_now)) as http:
        server = Server(http, http.app.state.services, FakeClock())  # type: ignore[attr-defined]
        job = server.submit()
        worker = server.worker()
        assert worker.claim() is not None
    time.sleep(1.2 * LEASE_SECONDS)
    with opened(create_app(settings, clock=utc_now)) as http:
        server = Server(http, http.app.state.services, FakeClock())  # type: ignore[attr-defined]
        time.sleep(0.2 * LEASE_SECONDS)
        assert server.job(job["id"])["status"] == "running"
        assert FakeWorker(server, worker.welcome, worker.lease).renew().status_code == 200
        time.sleep(1.5 * LEASE_SECONDS)
        assert server.job(job["id"])["status"] == "queued"
