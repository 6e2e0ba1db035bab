"""A clock that is set: identifiers keep their order, and leases get a term."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa

from bitbudget.app.leases.tables import LeaseRow
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import ClockWatch, new_id, utc_now
from tests.support.http import opened

REPOSITORY = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def test_identifiers_grow_though_the_clock_is_set_back() -> None:
    moments = (NOW, NOW, NOW - timedelta(hours=1), NOW, NOW + timedelta(seconds=1))
    made = [new_id(moment) for moment in moments]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("hours", [-5, 0, 3])
def test_a_jump_is_what_the_monotonic_clock_does_not_confirm(hours: int) -> None:
    wall = iter([NOW, NOW + timedelta(hours=hours, seconds=10)])
    steady = itertools.count(100.0, 10.0)
    watch = ClockWatch(lambda: next(wall), lambda: next(steady))
    assert watch.jumped_seconds() == hours * 3600


def test_a_clock_set_forward_takes_no_job_from_a_worker_that_renews(tmp_path: Path) -> None:
    ahead = timedelta()

    def clock() -> datetime:
        return utc_now() + ahead

    settings = Settings(home=tmp_path, lease_seconds=3, sweep_seconds=0.2)
    from bitbudget.app.server.serve import prepare  # noqa: PLC0415 - it sets the umask

    prepare(settings).state.services.database.dispose()
    with opened(create_app(settings, clock=clock)) as http:
        job = http.post("/v1/jobs", json={"model": "org/name", "budget": "1GB"}).json()
        who = {"chip": "x", "memory_bytes": 1, "backend": "cpu", "mlx_version": "1"}
        worker = http.post("/v1/workers", json={"name": "x", "capabilities": who}).json()
        lease = http.post("/v1/leases", json={"worker_id": worker["worker_id"]}).json()
        for tick in range(24):
            time.sleep(0.25)
            if tick == 13:  # the sweep has begun: it grants a term at the start
                ahead = timedelta(hours=2)
                time.sleep(0.5)
            answer: httpx2.Response = http.put(
                f"/v1/leases/{lease['lease_id']}", json={"attempt": 1}
            )
            assert answer.is_success, (tick, answer.text)
        assert http.get(f"/v1/jobs/{job['id']}").json()["attempt"] == 1


def test_a_clock_set_back_keeps_no_job_with_a_worker_that_is_gone(settings: Settings) -> None:
    ahead = timedelta()
    short = settings.model_copy(update={"lease_seconds": 0.5, "sweep_seconds": 0.1})
    with opened(create_app(short, clock=lambda: utc_now() + ahead)) as http:
        time.sleep(0.8)  # the sweep has begun
        job = http.post("/v1/jobs", json={"model": "org/name", "budget": "1GB"}).json()
        who = {"chip": "x", "memory_bytes": 1, "backend": "cpu", "mlx_version": "1"}
        worker = http.post("/v1/workers", json={"name": "x", "capabilities": who}).json()
        assert http.post("/v1/leases", json={"worker_id": worker["worker_id"]}).is_success
        ahead = timedelta(hours=-2)
        until = time.monotonic() + 20
        while http.get(f"/v1/jobs/{job['id']}").json()["status"] != "queued":
            assert time.monotonic() < until
            time.sleep(0.1)


def test_a_server_that_starts_with_an_earlier_clock_keeps_order_and_leases(
    settings: Settings,
) -> None:
    program = (
        "import sys; from datetime import timedelta; from pathlib import Path\n"
        "from bitbudget.app.server.main import create_app\n"
        "from bitbudget.app.server.settings import Settings\n"
        "from bitbudget.app.storage.ids import utc_now\n"
        "from tests.support.http import opened\n"
        "home, url, hours = sys.argv[1:]\n"
        "settings = Settings(home=Path(home), database_url=url, lease_seconds=60)\n"
        "clock = lambda: utc_now() + timedelta(hours=float(hours))\n"
        "with opened(create_app(settings, clock=clock)) as http:\n"
        "    job = {'model': 'org/name', 'budget': '1GB'}\n"
        "    print(*[http.post('/v1/jobs', json=job).json()['id'] for _ in range(2)])\n"
        "    who = {'chip': 'x', 'memory_bytes': 1, 'backend': 'cpu', 'mlx_version': '1'}\n"
        "    worker = http.post('/v1/workers', json={'name': 'x', 'capabilities': who}).json()\n"
        "    asked = {'worker_id': worker['worker_id']}\n"
        "    print(http.post('/v1/leases', json=asked).json()['job_id'])\n"
    )
    place = (str(settings.home_folder), settings.database_url)
    said = [
        subprocess.run(
            [sys.executable, "-c", program, *place, hours],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for hours in ("0", "-5")
    ]
    (first, second, taken), (third, fourth, next_taken) = said
    assert [first, second, third, fourth] == sorted((first, second, third, fourth))
    assert (taken, next_taken) == (first, second)
    database = Database(settings.resolved_database_url)
    with database.read() as session:
        leases = session.scalars(sa.select(LeaseRow)).all()
        ends = {lease.job_id: lease.lease_until for lease in leases}
    database.dispose()
    assert max(ends.values()) < utc_now() - timedelta(hours=4)
