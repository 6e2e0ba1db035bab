"""What one lease can leave behind on the server, and what lists carry."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bitbudget.app.auth.quota import RequestQuota
from bitbudget.app.http.errors import QuotaExceededError
from tests.support.http import FakeWorker, Server
from tests.support.reports import evaluation


def working(server: Server) -> tuple[str, FakeWorker]:
    job = server.submit()
    worker = server.worker()
    assert worker.claim() is not None
    return job["id"], worker


def test_progress_is_one_event_a_step_however_often_it_is_told(server: Server) -> None:
    job_id, worker = working(server)
    for done in range(8):
        for step in ("fetch", "measure"):
            assert worker.renew({"step": step, "done": done, "total": 8}).is_success
    events, _ = server.services.jobs.events(job_id, 0)
    told = [event.data for event in events if event.kind == "progress"]
    assert [(data["step"], data["done"]) for data in told] == [("fetch", 7), ("measure", 7)]


def test_a_replaced_artifact_leaves_no_bytes(server: Server) -> None:
    _, first = working(server)
    _, second = working(server)
    documents = [evaluation().model_copy(update={"tokens": 100 + n}).to_json() for n in range(5)]
    assert second.upload("evaluation.json", documents[3]).is_success
    for data in documents:
        assert first.upload("evaluation.json", data).is_success
    kept = {blob.digest for blob in server.services.store.blobs()}
    assert len(kept) == 2
    for worker, data in ((first, documents[-1]), (second, documents[3])):
        name = f"/v1/leases/{worker.lease['lease_id']}/artifacts/evaluation.json"
        head = {"Authorization": f"Bearer {worker.lease['token']}"}
        found = server.http.get(name, params={"attempt": 1}, headers=head)
        assert found.content == data
    assert first.upload("evaluation.json", documents[-1]).is_success
    assert len(list(server.services.store.blobs())) == 2


def test_a_lease_has_a_rate_of_its_own(server: Server) -> None:
    _, worker = working(server)
    _, other = working(server)
    limited = replace(server.services.access, quota=RequestQuota(1))
    access = replace(server.services.lease_access, access=limited)
    access.check_lease(worker.lease["token"], worker.lease["lease_id"])
    with pytest.raises(QuotaExceededError):
        access.check_lease(worker.lease["token"], worker.lease["lease_id"])
    access.check_lease(other.lease["token"], other.lease["lease_id"])


def test_lists_leave_out_what_is_long(server: Server) -> None:
    pins = {f"model.layers.{n}.mlp.down_proj" + "x" * 20: "affine8g64" for n in range(900)}
    few = {"model.embed_tokens": "affine8g64"}
    made = server.submit(pins=pins, floors=dict.fromkeys(few, 4))
    row = server.http.get("/v1/jobs").json()["items"][0]
    assert (row["id"], row["omitted"]) == (made["id"], ["request.pins"])
    assert row["request"]["pins"] == {}
    assert row["request"]["floors"] == dict.fromkeys(few, 4)
    assert len(json.dumps(row)) < 4096
    whole = server.job(made["id"])
    assert (whole["omitted"], whole["request"]["pins"]) == ([], pins)
