from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.exc import IntegrityError

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Encoder, Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.leases.tables import LeaseRow
from tests.support.http import FakeWorker, Server
from tests.support.reports import job_result

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


def test_a_job_that_crashed_holds_up_no_other(server: Server) -> None:
    crashing, other = server.submit()["id"], server.submit()["id"]
    worker = server.worker()
    claimed = worker.claim()
    assert claimed is not None
    assert claimed["job_id"] == crashing
    assert worker.finish("crashed").status_code == 204
    second = worker.claim()
    assert second is not None
    assert second["job_id"] == other
    assert worker.finish("failed", problem=PROBLEM).status_code == 204
    third = worker.claim()
    assert third is not None
    assert (third["job_id"], third["attempt"]) == (crashing, 2)


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


def lied(measurement: Measurement, **changes: Any) -> Measurement:
    return replace(measurement, model=replace(measurement.model, **changes))


@pytest.mark.parametrize(
    "make",
    [
        lambda m: lied(m, name="org/other"),
        lambda m: lied(m, digest="nothing"),
        lambda m: lied(m, revision="r" * 300),
        lambda m: replace(m, encoder=Encoder.MINMAX),
        lambda m: replace(m, rotation="fused"),
        lambda m: replace(m, text="f" * 64),
        lambda m: replace(m, tokens=10**100),
        lambda m: replace(m, curves=m.curves[1:]),
        lambda m: replace(m, inventory=replace(m.inventory, modules=(), passthrough=()), curves=()),
    ],
    ids=["name", "digest", "revision", "encoder", "rotation", "text", "tokens", "curves", "empty"],
)
def test_a_measurement_of_another_job_is_refused(
    server: Server, measurement: Measurement, make: Callable[[Measurement], Measurement]
) -> None:
    job_id, worker = working(server)
    answer = worker.upload("measurement.json", make(measurement).to_json())
    assert answer.status_code == 422, answer.text
    assert server.job(job_id)["measurement_id"] is None
    assert "artifact" not in server.kinds(job_id)
    later = server.submit()
    assert later["status"] == "queued"


def test_a_measurement_is_of_the_inventory_that_was_uploaded(
    server: Server, measurement: Measurement
) -> None:
    _, worker = working(server)
    other = replace(measurement.inventory, passthrough=())
    head = json.loads(measurement.to_json())["model"]
    inventory = {"model": head, "inventory": TypeAdapter(Inventory).dump_python(other, mode="json")}
    assert worker.upload("inventory.json", json.dumps(inventory).encode()).is_success
    answer = worker.upload("measurement.json", measurement.to_json())
    assert answer.status_code == 422
    assert "inventory" in answer.json()["detail"]


def scaled(measurement: Measurement, factor: float) -> Measurement:
    curves = [
        replace(curve, points=tuple(replace(p, kl_nats=p.kl_nats * factor) for p in curve.points))
        for curve in measurement.curves
    ]
    return replace(measurement, curves=tuple(curves))


def test_a_stored_measurement_is_not_replaced_by_another_worker(
    server: Server, measurement: Measurement, caplog: pytest.LogCaptureFixture
) -> None:
    _, first = working(server)
    honest = first.do(measurement)
    later = server.submit(encoder="yaqa", rotation="auto")
    other = server.worker("other")
    assert other.claim() is not None
    made = scaled(measurement, 1e-6).to_json()
    assert other.upload("measurement.json", made).is_success
    events, _ = server.services.jobs.events(later["id"], 0)
    told = [str(event.data["detail"]) for event in events if event.kind == "log"]
    assert any("other curves" in line for line in told)
    assert "other curves" in caplog.text
    again = server.submit()
    assert again["answer"]["manifest_sha256"] == honest


def test_a_false_manifest_is_not_stored_and_the_job_does_not_succeed(
    server: Server, measurement: Measurement
) -> None:
    job = server.submit(budget=1000)
    worker = server.worker()
    worker.claim()
    assert worker.upload("measurement.json", measurement.to_json()).is_success
    request = AllocationRequest(budget=10**12)
    layout = plan_checkpoint(measurement.inventory)
    honest = Manifest.build(measurement, layout, request, allocate(measurement, request))
    document = json.loads(honest.to_bytes())
    document["request"]["budget"] = document["budget_bytes"] = 1000
    lie = Manifest.from_bytes(json.dumps(document).encode())
    for manifest in (honest, lie):
        assert worker.upload("manifest.json", manifest.to_bytes()).status_code == 422
        result = job_result(manifest).model_dump(mode="json")
        assert worker.finish("succeeded", result=result).status_code == 409
    assert server.job(job["id"])["status"] == "running"
    assert server.job(job["id"])["answer"] is None


def test_a_result_says_what_its_manifest_says(server: Server, measurement: Measurement) -> None:
    job_id, worker = working(server)
    request = AllocationRequest(budget="1GiB")
    layout = plan_checkpoint(measurement.inventory)
    manifest = Manifest.build(measurement, layout, request, allocate(measurement, request))
    assert worker.upload("measurement.json", measurement.to_json()).is_success
    assert worker.upload("manifest.json", manifest.to_bytes()).is_success
    for lie in ({"file_bytes": 1}, {"bound": 1.0}, {"measurement_key": "f" * 64}):
        told = job_result(manifest).model_dump(mode="json") | lie
        assert worker.finish("succeeded", result=told).status_code == 409
    assert server.job(job_id)["status"] == "running"
