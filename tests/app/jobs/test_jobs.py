from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bitbudget.app.auth.principal import Scope
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.jobs.repository import events_after
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import Server
from tests.support.reports import evaluation
from tests.support.speed import least_seconds


def test_a_new_job_waits_for_a_worker(server: Server) -> None:
    job = server.submit()
    assert job["status"] == "queued"
    assert server.kinds(job["id"]) == ["queued"]
    assert server.job(job["id"])["request"]["budget"] == "1GiB"


def test_a_job_runs_to_its_manifest(server: Server, measurement: Measurement) -> None:
    job = server.submit()
    worker = server.worker()
    worker.claim()
    digest = worker.do(measurement)
    done = server.job(job["id"])
    assert done["status"] == "succeeded"
    assert done["answer"]["manifest_sha256"] == digest
    assert done["measurement_id"] == measurement.key
    assert done["worker"]["name"] == "machine"
    assert server.kinds(job["id"])[-1] == "succeeded"


def test_a_second_budget_needs_no_worker(server: Server, measurement: Measurement) -> None:
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    job = server.submit(budget=200_000)
    assert job["status"] == "succeeded"
    assert job["answer"]["file_bytes"] <= 200_000
    assert server.kinds(job["id"]) == [
        "queued",
        "artifact",
        "artifact",
        "answered",
        "succeeded",
    ]
    others = [partial(server.submit, budget=200_000 + more) for more in range(1, 6)]
    assert least_seconds(others, 1.0) < 1


def test_a_stored_measurement_is_called_as_the_request_has_it(
    server: Server, measurement: Measurement
) -> None:
    worker = server.worker()
    for name in ("secret-project", "public"):
        server.submit(model=f"/models/{name}")
        worker.claim()
        identity = replace(measurement.model, name=name, revision="local")
        worker.do(replace(measurement, model=identity))
    for asked, called in (({}, "public"), ({"name": "org/mine"}, "org/mine")):
        job = server.submit(model="/models/public", budget=200_000, **asked)
        assert job["status"] == "succeeded"
        manifest = server.http.get(f"/v1/jobs/{job['id']}/manifest").json()
        assert manifest["model"]["name"] == called


def folded(measurement: Measurement, cost: float) -> Measurement:
    """Return the measurement of a rotated twin whose errors cost so many times as much."""
    curves = tuple(
        replace(curve, points=tuple(replace(p, kl_nats=cost * p.kl_nats) for p in curve.points))
        for curve in measurement.curves
    )
    return replace(measurement, rotation="folded", curves=curves)


@pytest.mark.parametrize(
    ("cost", "lost", "chosen"), [(0.5, 0.0, "folded"), (0.5, 9.0, "none"), (0.99, 0.0, "none")]
)
def test_auto_takes_the_better_of_two_stored_measurements(
    server: Server, measurement: Measurement, cost: float, lost: float, chosen: str
) -> None:
    twin = replace(folded(measurement, cost), rotation_kl_nats=lost)
    for rotation, found in (("none", measurement), ("folded", twin)):
        assert server.submit(rotation="auto", budget=200_000)["status"] == "queued"
        server.submit(rotation=rotation)
        worker = server.worker(rotation)
        worker.claim()
        while worker.lease["request"]["rotation"] != rotation:
            worker.finish("failed", problem={"title": "x", "detail": "x"})
            worker.claim()
        worker.do(found)
    job = server.submit(rotation="auto", budget=200_000)
    assert job["status"] == "succeeded"
    stored = {"none": measurement, "folded": twin}[chosen]
    assert job["measurement_id"] == stored.key
    manifest = Manifest.from_bytes(server.http.get(f"/v1/jobs/{job['id']}/manifest").content)
    assert manifest.rotation == chosen


def test_a_limit_of_time_takes_what_was_measured(server: Server, measurement: Measurement) -> None:
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    assert server.submit(budget=200_000, max_minutes=0.5)["status"] == "succeeded"
    assert server.submit(budget=200_000, max_minutes=0.5, effort="quick")["status"] == "queued"
    quick = replace(measurement, effort=Effort.QUICK, encoder=Encoder.CAREFUL)
    worker.claim()
    worker.do(quick)
    answer = server.submit(budget=200_000, max_minutes=0.5, effort="quick")
    assert (answer["status"], answer["measurement_id"]) == ("succeeded", quick.key)


def test_the_effort_that_a_limit_of_time_allowed_is_taken(
    server: Server, measurement: Measurement
) -> None:
    job = server.submit(budget=200_000, max_minutes=0.5)
    worker = server.worker()
    worker.claim()
    worker.do(replace(measurement, effort=Effort.QUICK, encoder=Encoder.CAREFUL))
    assert server.job(job["id"])["status"] == "succeeded"


def test_a_second_budget_of_auto_needs_no_worker(server: Server, measurement: Measurement) -> None:
    twin = folded(measurement, 0.5)
    server.submit(rotation="auto")
    worker = server.worker()
    worker.claim()
    assert worker.upload("measurement.json", measurement.to_json()).status_code == 200
    assert server.submit(rotation="auto", budget=200_000)["status"] == "queued"
    worker.do(twin)
    job = server.submit(rotation="auto", budget=200_000)
    assert (job["status"], job["measurement_id"]) == ("succeeded", twin.key)
    assert server.submit(rotation="none", budget=200_000)["measurement_id"] == measurement.key


def test_a_second_checkpoint_starts_with_its_manifest(
    server: Server, measurement: Measurement
) -> None:
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    job = server.submit(budget=200_000, deliver="checkpoint")
    assert job["status"] == "queued"
    assert job["answer"] is not None
    lease = worker.claim()
    assert lease is not None
    assert [a["name"] for a in lease["artifacts"]] == ["manifest.json", "measurement.json"]


@pytest.mark.parametrize("changed", [{"encoder": "minmax"}, {"sensitivity": "weights"}])
def test_another_way_of_measuring_is_not_answered_from_the_store(
    server: Server, measurement: Measurement, changed: dict[str, str]
) -> None:
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    assert server.submit(**changed)["status"] == "queued"


def test_an_infeasible_budget_names_the_smallest(server: Server, measurement: Measurement) -> None:
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    answer = server.http.post("/v1/jobs", json={"model": "org/model", "budget": 10})
    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["type"] == "urn:bitbudget:problem:infeasible-budget"
    smallest = problem["minimum_bytes"]
    assert server.submit(budget=smallest)["answer"]["file_bytes"] <= smallest


def test_headers_of_a_known_model_refuse_what_cannot_be(
    server: Server, measurement: Measurement
) -> None:
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    body = {"model": "org/model", "budget": 10, "sensitivity": "weights"}
    answer = server.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:bitbudget:problem:infeasible-budget"


def test_the_same_key_and_body_are_the_same_job(server: Server) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"model": "org/model", "budget": "1GiB"}
    first = server.http.post("/v1/jobs", json=body, headers=headers)
    again = server.http.post("/v1/jobs", json=body, headers=headers)
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    other = server.http.post("/v1/jobs", json={**body, "budget": "2GiB"}, headers=headers)
    assert other.status_code == 422
    assert other.json()["type"] == "urn:bitbudget:problem:key-mismatch"


def test_a_job_no_one_has_is_cancelled_at_once(server: Server) -> None:
    job = server.submit()
    for _ in range(2):
        answer = server.http.post(f"/v1/jobs/{job['id']}/cancel")
        assert answer.json()["status"] == "cancelled"
    assert server.kinds(job["id"]) == ["queued", "cancel_requested", "cancelled"]


def test_a_running_job_is_cancelled_by_its_worker(server: Server) -> None:
    job = server.submit()
    worker = server.worker()
    worker.claim()
    assert worker.renew().json()["cancel"] is False
    answer = server.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert (answer.json()["status"], answer.json()["cancel_requested"]) == ("running", True)
    assert worker.renew().json()["cancel"] is True
    assert worker.finish("cancelled").status_code == 204
    assert server.job(job["id"])["status"] == "cancelled"


def test_the_manifest_has_a_strong_etag(server: Server, measurement: Measurement) -> None:
    job = server.submit()
    path = f"/v1/jobs/{job['id']}/manifest"
    early = server.http.get(path)
    assert (early.status_code, early.json()["type"]) == (409, "urn:bitbudget:problem:conflict")
    worker = server.worker()
    worker.claim()
    digest = worker.do(measurement)
    answer = server.http.get(path)
    assert hashlib.sha256(answer.content).hexdigest() == digest
    assert answer.headers["ETag"] == f'"{digest}"'
    assert Manifest.from_bytes(answer.content).sha256 == digest
    for tags in (f'"{digest}"', f'"other", W/"{digest}"', "*"):
        again = server.http.get(path, headers={"If-None-Match": tags})
        assert (again.status_code, again.content) == (304, b"")
    assert server.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_pages_hold_every_job_once(server: Server) -> None:
    made = [server.submit()["id"] for _ in range(7)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = server.http.get("/v1/jobs", params=query).json()
        seen += [job["id"] for job in page["items"]]
        if page["next_cursor"] is None:
            break
        server.submit(model="org/late")
        query["cursor"] = page["next_cursor"]
    assert seen == made[::-1]


def test_jobs_are_listed_by_status_and_model(server: Server) -> None:
    server.submit(model="org/a")
    other = server.submit(model="org/b")
    found = server.http.get("/v1/jobs", params={"model": "org/b", "status": "queued"}).json()
    assert [job["id"] for job in found["items"]] == [other["id"]]
    assert server.http.get("/v1/jobs", params={"status": "failed"}).json()["items"] == []


def test_a_job_is_found_by_its_tags_which_its_owner_changes(server: Server) -> None:
    server.submit(model="org/a")
    made = server.submit(model="org/b", tags=["m4", "release", "m4"], note="two\nlines")
    assert (made["tags"], made["note"]) == (["m4", "release"], "two\nlines")

    def found(tag: str) -> list[str]:
        listed = server.http.get("/v1/jobs", params={"tag": tag}).json()["items"]
        return [job["id"] for job in listed]

    path = f"/v1/jobs/{made['id']}"
    known = {"If-None-Match": server.http.get(path).headers["ETag"]}
    assert found("m4") == [made["id"]]
    changed = server.http.patch(path, json={"tags": ["blog"]}).json()
    assert (changed["tags"], changed["note"]) == (["blog"], "two\nlines")
    assert (found("m4"), found("blog")) == ([], [made["id"]])
    for note in ("first", "second"):
        server.http.patch(path, json={"note": note})
    seen = server.http.get(path, headers=known)
    assert (seen.status_code, seen.json()["note"], seen.json()["tags"]) == (200, "second", ["blog"])
    with server.services.database.read() as session:
        kinds = [event.kind for event in events_after(session, made["id"], 0)]
    assert kinds == ["queued", "labelled"]


@pytest.mark.parametrize(
    "change",
    [
        {"tags": ["two words"]},
        {"tags": ["x" * 49]},
        {"tags": [f"t{i}" for i in range(17)]},
        {"note": "x" * 2001},
        {"note": "\u0000"},
        {"owner": ""},
    ],
)
def test_labels_are_bounded(server: Server, change: dict[str, Any]) -> None:
    job = server.submit()["id"]
    assert server.http.patch(f"/v1/jobs/{job}", json=change).status_code == 422
    assert server.http.get(f"/v1/jobs/{job}").json()["tags"] == []


def test_labels_are_changed_by_owner_and_admin_alone(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"require_keys": True}))
    with TestClient(app, base_url="http://127.0.0.1") as http:
        keys = app.state.services.keys
        writers = {Scope.JOBS_READ, Scope.JOBS_WRITE}
        scopes = {"owner": writers, "other": writers, "reader": {Scope.JOBS_READ}}
        scopes["admin"] = {Scope.ADMIN}
        tokens = {name: keys.create(name, sorted(each)).token for name, each in scopes.items()}

        def headers(who: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {tokens[who]}"}

        body = {"model": "org/a", "min_safe": True}
        job = http.post("/v1/jobs", json=body, headers=headers("owner")).json()["id"]
        codes = {
            who: http.patch(f"/v1/jobs/{job}", json={"note": who}, headers=headers(who)).status_code
            for who in ("owner", "other", "reader", "admin")
        }
        assert codes == {"owner": 200, "other": 403, "reader": 403, "admin": 200}


@pytest.mark.parametrize("cursor", ["!", "e30", "WyJhIiwgImIiXQ", "WzFd", "ü"])
def test_a_cursor_from_elsewhere_is_refused(server: Server, cursor: str) -> None:
    answer = server.http.get("/v1/jobs", params={"cursor": cursor})
    assert answer.status_code == 404
    assert "no page" in answer.json()["detail"]


def test_the_report_has_what_there_is(server: Server, measurement: Measurement) -> None:
    job = server.submit()
    path = f"/v1/jobs/{job['id']}/report"
    assert server.http.get(path).json()["allocation"] is None
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    report = server.http.get(path).json()
    formats = report["allocation"]["formats"]
    assert sum(f["modules"] for f in formats.values()) == len(measurement.inventory.modules)
    assert report["evaluation"] == evaluation().model_dump(mode="json")
    assert report["benchmark"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"model": "org/model"},
        {"budget": "1GiB"},
        {"model": "org/model", "budget": "lots"},
        {"model": "org/model", "budget": "1GiB", "formats": ["affine7g64"]},
        {"model": "org/model", "budget": "1GiB", "unknown": 1},
        {"model": "a\u0000b", "budget": "1GiB"},
        {"model": "", "budget": "1GiB"},
        [],
    ],
)
def test_a_bad_request_is_a_problem(server: Server, body: Any) -> None:
    answer = server.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance"} <= answer.json().keys()
    assert server.http.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize("job_id", ["nope", "0" * 32, "%00", "a" * 5000])
def test_an_unknown_job_is_not_found(server: Server, job_id: str) -> None:
    for path in ("", "/events", "/manifest", "/report"):
        answer = server.http.get(f"/v1/jobs/{job_id}{path}")
        assert answer.status_code == 404
        assert answer.json()["title"] == "Not found"


def test_a_poll_that_knows_the_job_gets_no_body_until_something_happens(server: Server) -> None:
    path = f"/v1/jobs/{server.submit()['id']}"
    first = server.http.get(path)
    known = {"If-None-Match": first.headers["ETag"]}
    again = server.http.get(path, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    worker = server.worker()
    worker.claim()
    running = server.http.get(path, headers=known)
    assert (running.status_code, running.json()["status"]) == (200, "running")
    worker.renew({"step": "measure", "done": 1, "total": 4})
    assert server.http.get(path).json()["progress"]["done"] == 1
    server.http.post(f"{path}/cancel")
    assert server.http.get(path).json()["cancel_requested"]
    assert server.http.get(path).json() == server.http.get("/v1/jobs").json()["items"][0]
