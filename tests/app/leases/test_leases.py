from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from bitbudget.app.core.measurement import Measurement
from bitbudget.app.leases.tables import LeaseRow
from tests.support.http import FakeWorker, Server

PROBLEM = {"type": "urn:x", "title": "Bad", "status": 422, "detail": "the shard is truncated"}
PROGRESS = {"step": "measure", "done": 5, "total": 10, "unit": "bytes"}


def working(server: Server) -> tuple[str, FakeWorker]:
    job = server.submit()
    worker = server.worker()
    assert worker.claim() is not None
    return job["id"], worker


def test_no_job_is_204(server: Server) -> None:
    assert server.worker().claim() is None


def test_jobs_are_taken_oldest_first_and_once(server: Server) -> None:
    made = [server.submit()["id"] for _ in range(3)]
    worker = server.worker()
    taken = []
    for _ in made:
        lease = worker.claim()
        assert lease is not None
        taken.append(lease["job_id"])
    assert taken == made
    assert worker.claim() is None


def test_progress_is_an_event_once(server: Server) -> None:
    job_id, worker = working(server)
    for _ in range(3):
        assert worker.renew(PROGRESS).status_code == 200
    assert server.kinds(job_id) == ["queued", "started", "progress"]
    assert server.job(job_id)["progress"]["done"] == 5


def test_renewing_moves_the_end(server: Server) -> None:
    job_id, worker = working(server)
    for _ in range(4):
        server.clock.pass_seconds(50)
        assert worker.renew().status_code == 200
        assert server.services.leases.sweep() == 0
    assert server.job(job_id)["status"] == "running"


def test_an_expired_lease_is_requeued_and_fenced(server: Server) -> None:
    job_id, worker = working(server)
    server.clock.pass_seconds(61)
    assert server.services.leases.sweep() == 1
    assert server.job(job_id)["status"] == "queued"
    late = worker.renew(PROGRESS)
    assert (late.status_code, late.json()["type"]) == (410, "urn:bitbudget:problem:lost-lease")
    assert worker.upload("evaluation.json", b"{}").status_code == 410
    assert worker.finish("failed", problem=PROBLEM).status_code == 410
    second = server.worker("second")
    lease = second.claim()
    assert lease is not None
    assert lease["attempt"] == 2
    assert worker.renew().status_code == 410
    assert second.renew().status_code == 200
    assert second.renew(attempt=1).status_code == 410


def test_three_lost_attempts_fail_the_job(server: Server) -> None:
    job = server.submit()
    worker = server.worker()
    for attempt in (1, 2, 3):
        lease = worker.claim()
        assert lease is not None
        assert lease["attempt"] == attempt
        server.clock.pass_seconds(61)
        server.services.leases.sweep()
    failed = server.job(job["id"])
    assert failed["status"] == "failed"
    assert "3 attempts" in failed["problem"]["detail"]
    assert worker.claim() is None


def test_a_released_attempt_does_not_count(server: Server) -> None:
    job = server.submit()
    worker = server.worker()
    for _ in range(5):
        assert worker.claim() is not None
        assert worker.finish("released").status_code == 204
    assert server.job(job["id"])["status"] == "queued"


def test_a_crash_counts(server: Server) -> None:
    job = server.submit()
    worker = server.worker()
    for _ in range(3):
        assert worker.claim() is not None
        assert worker.finish("crashed").status_code == 204
    assert server.job(job["id"])["status"] == "failed"


def test_the_same_end_twice_is_accepted(server: Server) -> None:
    job_id, worker = working(server)
    assert worker.finish("failed", problem=PROBLEM).status_code == 204
    assert worker.finish("failed", problem=PROBLEM).status_code == 204
    assert worker.finish("released").status_code == 410
    assert server.job(job_id)["problem"]["detail"] == "the shard is truncated"
    assert server.kinds(job_id).count("failed") == 1


def test_success_needs_a_manifest(server: Server) -> None:
    job_id, worker = working(server)
    answer = worker.finish("succeeded")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:bitbudget:problem:conflict")
    assert server.job(job_id)["status"] == "running"


def test_failure_needs_a_problem(server: Server) -> None:
    _, worker = working(server)
    assert worker.finish("failed").status_code == 422


def test_a_cancelled_job_whose_worker_died_is_cancelled(server: Server) -> None:
    job_id, _ = working(server)
    server.http.post(f"/v1/jobs/{job_id}/cancel")
    server.clock.pass_seconds(61)
    server.services.leases.sweep()
    assert server.job(job_id)["status"] == "cancelled"


def test_the_next_attempt_gets_what_was_uploaded(server: Server, measurement: Measurement) -> None:
    _, worker = working(server)
    data = measurement.to_json()
    assert worker.upload("measurement.json", data).status_code == 200
    server.clock.pass_seconds(61)
    server.services.leases.sweep()
    second = server.worker()
    lease = second.claim()
    assert lease is not None
    (artifact,) = lease["artifacts"]
    assert (artifact["name"], artifact["bytes"]) == ("measurement.json", len(data))
    answer = server.http.get(
        f"/v1/leases/{lease['lease_id']}/artifacts/measurement.json", params={"attempt": 2}
    )
    assert answer.content == data


def test_a_damaged_upload_is_refused(server: Server) -> None:
    _, worker = working(server)
    answer = worker.upload("evaluation.json", b'{"tokens": 1}', said=b'{"tokens": 2}')
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:bitbudget:problem:digest-mismatch"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("measurement.json", b"{}"),
        ("measurement.json", b"\xff"),
        ("manifest.json", b'{"schema_version": 2}'),
        ("evaluation.json", b"[1]"),
        ("evaluation.json", b"[" * 100_000),
        ("benchmark.json", b""),
        ("inventory.json", b'{"model": 1}'),
    ],
)
def test_a_document_that_is_not_what_its_name_says_is_refused(
    server: Server, name: str, data: bytes
) -> None:
    job_id, worker = working(server)
    answer = worker.upload(name, data)
    assert answer.status_code == 422, answer.text
    assert name in answer.json()["detail"]
    assert "artifact" not in server.kinds(job_id)


def test_curves_must_be_those_of_the_modules(server: Server, measurement: Measurement) -> None:
    _, worker = working(server)
    broken = json.loads(measurement.to_json())
    del broken["curves"][0]
    answer = worker.upload("measurement.json", json.dumps(broken).encode())
    assert answer.status_code == 422
    assert "curves" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["weights.bin", "..%2Fetc", "manifest.json%00"])
def test_only_known_names_can_be_uploaded(server: Server, name: str) -> None:
    _, worker = working(server)
    assert worker.upload(name, b"{}").status_code in (404, 422)


def test_the_database_itself_allows_one_open_lease_per_job(server: Server) -> None:
    _, worker = working(server)
    with server.services.database.read() as session:
        open_lease = session.get_one(LeaseRow, worker.lease["lease_id"])
        values: dict[str, Any] = {
            column.name: getattr(open_lease, column.name) for column in LeaseRow.__table__.columns
        }
    values |= {"id": "f" * 32, "attempt": 2, "token_hash": "f" * 64}
    with pytest.raises(IntegrityError), server.services.database.write() as session:
        session.execute(sa.insert(LeaseRow).values(values))


def test_many_workers_never_share_a_job(server: Server) -> None:
    made = {server.submit()["id"] for _ in range(24)}
    workers = [server.worker(str(number)).welcome["worker_id"] for number in range(8)]

    def drain(worker_id: str) -> list[str]:
        taken = []
        while (grant := server.services.leases.claim(worker_id)) is not None:
            taken.append(grant.job_id)
        return taken

    with ThreadPoolExecutor(len(workers)) as pool:
        taken = [job_id for part in pool.map(drain, workers) for job_id in part]
    assert sorted(taken) == sorted(made)
