"""What becomes of leases while the server is away."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import utc_now
from bitbudget.app.storage.migrate import upgrade
from tests.support.http import FakeClock, FakeWorker, Server, opened

LEASE_SECONDS = 3.0
AWAY = timedelta(hours=2)
SWEEP_SECONDS = 0.05


def test_a_worker_that_outlived_the_server_keeps_its_lease(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, lease_seconds=LEASE_SECONDS, sweep_seconds=SWEEP_SECONDS)
    database = Database(settings.resolved_database_url)
    upgrade(database)
    database.dispose()
    with opened(create_app(settings, clock=utc_now)) as http:
        server = Server(http, http.app.state.services, FakeClock())  # type: ignore[attr-defined]
        job = server.submit()
        worker = server.worker()
        assert worker.claim() is not None
    with opened(create_app(settings, clock=lambda: utc_now() + AWAY)) as http:
        server = Server(http, http.app.state.services, FakeClock())  # type: ignore[attr-defined]
        time.sleep(4 * SWEEP_SECONDS)
        assert server.job(job["id"])["status"] == "running"
        assert FakeWorker(server, worker.welcome, worker.lease).renew().status_code == 200
        end = time.monotonic() + 20 * LEASE_SECONDS
        while server.job(job["id"])["status"] != "queued":
            assert time.monotonic() < end, "a lease that nobody renews ends"
            time.sleep(SWEEP_SECONDS)
