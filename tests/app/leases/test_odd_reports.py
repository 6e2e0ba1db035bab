"""Reports with odd values are refused, and whatever was stored, every page answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from bitbudget.app.core.measurement import Measurement
from bitbudget.app.jobs.tables import JobRow, RevisionRow
from tests.support.http import FakeWorker, Server
from tests.support.reports import benchmark, evaluation

_PAGES = ("/", "/index.json", "/benchmarks", "/machines", "/compare", "/v1/jobs", "/v1/workers")


def working(server: Server) -> tuple[str, FakeWorker]:
    job = server.submit(deliver="checkpoint", budget=300_000)
    worker = server.worker()
    assert worker.claim() is not None
    return job["id"], worker


def assert_pages_answer(server: Server, job_id: str) -> None:
    own = (f"/jobs/{job_id}", f"/jobs/{job_id}.json", f"/v1/jobs/{job_id}/report")
    for path in (*_PAGES, *own, f"/compare?jobs={job_id}", f"/v1/jobs/{job_id}"):
        assert server.http.get(path).status_code == 200, path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kl_interval_95", 0.01),
        ("kl_interval_95", [0.01]),
        ("kl_nats_per_token", "0.01"),
        ("kl_nats_per_token", float("inf")),
        ("kl_nats_per_token", None),
        ("top1_agreement", 1e9),
        ("tokens", 10**400),
        ("tokens", -1),
        ("tokens", [1]),
        ("noise_floor_path", "a\x00b"),
        ("noise_floor_path", "x" * 10_000),
        ("sets", 3),
    ],
)
def test_an_odd_evaluation_is_refused(server: Server, field: str, value: object) -> None:
    job_id, worker = working(server)
    odd = evaluation().model_dump(mode="json") | {field: value}
    answer = worker.upload("evaluation.json", json.dumps(odd).encode())
    assert answer.status_code == 422, answer.text
    assert field in answer.json()["detail"]
    assert_pages_answer(server, job_id)


@pytest.mark.parametrize(
    ("field", "value"),
    [("device", "M4"), ("decode_tokens_per_second", "fast"), ("prediction", [1]), ("kernels", 1)],
)
def test_an_odd_benchmark_is_refused(server: Server, field: str, value: object) -> None:
    job_id, worker = working(server)
    odd = benchmark().model_dump(mode="json") | {field: value}
    assert worker.upload("benchmark.json", json.dumps(odd).encode()).status_code == 422
    assert_pages_answer(server, job_id)


@pytest.mark.parametrize(
    "result", [{"checkpoint": "/out"}, {"baseline": {}}, {"checkpoint": {"a": 1}}, [], "done"]
)
def test_an_odd_result_is_refused(server: Server, result: object) -> None:
    job_id, worker = working(server)
    assert worker.finish("succeeded", result=result).status_code == 422
    assert_pages_answer(server, job_id)


@pytest.mark.parametrize(
    "fields",
    [
        {"minimum_bytes": "many"},
        {"minimum_bytes": [1]},
        {"minimum_bytes": 2**60},
        {"minimum_bytes": -1},
        {"x": {"deep": 1}},
        {"x": 2**70},
        {"x" * 100: 1},
    ],
)
def test_an_odd_problem_is_refused(server: Server, fields: dict[str, Any]) -> None:
    job_id, worker = working(server)
    problem = {"type": "urn:x", "title": "x", "status": 422, "detail": "x", "fields": fields}
    assert worker.finish("failed", problem=problem).status_code == 422
    assert_pages_answer(server, job_id)


@pytest.mark.parametrize("part", ["request", "progress", "answer", "result"])
def test_an_unreadable_row_is_shown_as_such(
    server: Server, measurement: Measurement, part: str
) -> None:
    job_id, worker = working(server)
    worker.do(measurement)
    with server.services.database.write() as session:
        table, key = (RevisionRow, RevisionRow.job_id) if part == "answer" else (JobRow, JobRow.id)
        session.execute(sa.update(table).where(key == job_id).values({part: {"odd": "x"}}))
    listed = server.http.get("/v1/jobs").json()["items"]
    assert [job["unreadable"] for job in listed if job["id"] == job_id] == [[part]]
    assert part in server.http.get(f"/jobs/{job_id}").text
    assert_pages_answer(server, job_id)


def test_a_queued_request_that_cannot_be_read_fails_and_the_next_is_served(server: Server) -> None:
    broken, fine = server.submit(), server.submit()
    with server.services.database.write() as session:
        odd = sa.update(JobRow).where(JobRow.id == broken["id"])
        session.execute(odd.values(request={"odd": 1}))
    lease = server.worker().claim()
    assert lease is not None
    assert lease["job_id"] == fine["id"]
    failed = server.job(broken["id"])
    assert failed["status"] == "failed"
    assert failed["problem"]["type"].endswith("unreadable-request")


def test_log_lines_are_kept_once_and_shown(server: Server) -> None:
    job_id, worker = working(server)
    progress = {"step": "measure", "done": 5, "total": 10}
    lines = [{"number": n, "step": "allocate", "detail": f"line <{n}>"} for n in (1, 2)]
    for _ in range(2):  # the answer to the first was lost
        assert worker.renew(progress, log=lines).status_code == 200
    assert server.kinds(job_id).count("log") == 2
    assert server.job(job_id)["progress"]["done"] == 5
    page = server.http.get(f"/jobs/{job_id}").text
    assert "line &lt;1&gt;" in page
    assert worker.renew(log=[{"number": 0, "detail": "x"}]).status_code == 422


def test_what_a_crashed_attempt_met_is_told(server: Server) -> None:
    job_id, worker = working(server)
    problem = {"type": "urn:x", "title": "x", "status": 500, "detail": "killed by signal 9"}
    assert worker.finish("crashed", problem=problem).status_code == 204
    events, _ = server.services.jobs.events(job_id, 0)
    assert "killed by signal 9" in str(events[-1].data["reason"])
    assert "killed by signal 9" in server.http.get(f"/jobs/{job_id}").text


def test_a_result_of_another_manifest_is_refused(server: Server, measurement: Measurement) -> None:
    done, worker = working(server)
    worker.do(measurement)
    result = server.job(done)["result"] | {"sha256": "f" * 64}
    other, worker = working(server)
    for name in ("measurement.json", "manifest.json"):
        data = server.http.get(f"/v1/jobs/{done}/manifest").content
        data = measurement.to_json() if name == "measurement.json" else data
        assert worker.upload(name, data).is_success
    answer = worker.finish("succeeded", result=result)
    assert answer.status_code == 409, answer.text
    assert "another manifest" in answer.json()["detail"]
    assert worker.finish("succeeded", result=server.job(done)["result"]).status_code == 204
    assert server.job(other)["status"] == "succeeded"
