"""Answers that refine each other: kept, numbered, audited, downloadable one by one."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.solving import allocate_manifest
from bitbudget.app.server.retention import collect
from tests.support.http import FakeWorker, Server

BUDGET = 200_000


@pytest.fixture
def quick(measurement: Measurement) -> Measurement:
    """A quick measurement of the same model, by which errors cost twice as much."""
    curves = tuple(
        replace(curve, points=tuple(replace(p, kl_nats=2 * p.kl_nats) for p in curve.points))
        for curve in measurement.curves
    )
    return replace(measurement, effort=Effort.QUICK, encoder=Encoder.CAREFUL, curves=curves)


def first_manifest(quick: Measurement) -> Manifest:
    return allocate_manifest(quick, AllocationRequest(budget=BUDGET))


def previewed(server: Server, quick: Measurement, **fields: Any) -> tuple[str, FakeWorker, bytes]:
    """Return a job that a worker has given a first answer, the worker, and the answer's bytes."""
    job = server.submit(budget=BUDGET, **fields)
    worker = server.worker()
    assert worker.claim() is not None
    first = first_manifest(quick).to_bytes()
    assert worker.upload("first_measurement.json", quick.to_json()).status_code == 200
    assert worker.upload("first_manifest.json", first).status_code == 200
    return job["id"], worker, first


def test_each_revision_is_named_and_stays_downloadable(
    server: Server, quick: Measurement, measurement: Measurement, tmp_path: Path
) -> None:
    job_id, worker, first = previewed(server, quick)
    manifest = f"/v1/jobs/{job_id}/manifest"
    running = server.job(job_id)
    assert (running["status"], running["answer"]["revision"]) == ("running", 1)
    assert (running["answer"]["effort"], len(running["revisions"])) == ("quick", 1)
    assert server.http.get(manifest).content == first
    assert server.http.get(f"{manifest}?revision=2").status_code == 409
    page = server.http.get(f"/jobs/{job_id}").text
    assert "a first one at quick effort; standard effort refines it now" in page
    assert "Keep this answer and stop" in page

    final = worker.do(measurement)
    done = server.job(job_id)
    assert (done["answer"]["revision"], done["answer"]["effort"]) == (2, "standard")
    assert [answer["revision"] for answer in done["revisions"]] == [1, 2]
    costs = [answer["predicted_kl_nats_per_token"] for answer in done["revisions"]]
    assert costs[0] == pytest.approx(2 * costs[1])
    events, _ = server.services.jobs.events(job_id, 0)
    answers = [event.data for event in events if event.kind == "answered"]
    assert [(a["revision"], a["effort"]) for a in answers] == [(1, "quick"), (2, "standard")]
    page = server.http.get(f"/jobs/{job_id}").text
    assert f"{manifest}?revision=1" in page
    assert f"{manifest}?revision=2" in page

    for stored in tmp_path.rglob("*"):  # older than the grace that gc gives
        os.utime(stored, (1, 1))
    collect(
        server.services.database,
        server.services.jobs.store,
        age=timedelta(days=1),
        now=server.clock(),
    )
    assert server.http.get(f"{manifest}?revision=1").content == first
    assert sha256_of(server.http.get(manifest).content) == final
    assert server.http.get(f"{manifest}?revision=0").status_code == 422


def test_a_cancelled_job_keeps_its_first_answer(server: Server, quick: Measurement) -> None:
    job_id, worker, first = previewed(server, quick)
    assert server.http.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    assert worker.renew().json()["cancel"] is True
    assert worker.finish("cancelled").status_code == 204
    job = server.job(job_id)
    assert (job["status"], job["answer"]["revision"]) == ("cancelled", 1)
    assert server.http.get(f"/v1/jobs/{job_id}/manifest").content == first
    assert server.http.get(f"/v1/jobs/{job_id}/report").json()["allocation"] is not None
    last = server.services.jobs.events(job_id, 0)[0][-1]
    assert (last.kind, last.data["answer"]) == ("cancelled", job["answer"])
    page = server.http.get(f"/jobs/{job_id}").text
    assert "The answer that it had is kept" in page
    assert "standard effort did not come to refine it" in page


def test_a_first_answer_is_audited_and_is_not_the_end(server: Server, quick: Measurement) -> None:
    job_id, worker, first = previewed(server, quick)
    true = first_manifest(quick)
    boast = true.certificate.predicted_kl_nats_per_token / 2
    forged = true.model_copy(
        update={
            "certificate": true.certificate.model_copy(
                update={"predicted_kl_nats_per_token": boast}
            )
        }
    )
    refused = worker.upload("first_manifest.json", forged.to_bytes())
    assert (refused.status_code, "predicted" in refused.text) == (422, True), refused.text
    as_final = worker.upload("measurement.json", quick.to_json())
    assert (as_final.status_code, "effort" in as_final.text) == (422, True), as_final.text
    assert worker.finish("succeeded").status_code == 409
    assert server.http.get(f"/v1/jobs/{job_id}/manifest").content == first


def test_a_stored_quick_measurement_answers_first_at_once(
    server: Server, quick: Measurement, measurement: Measurement
) -> None:
    server.submit(effort="quick")
    worker = server.worker()
    worker.claim()
    worker.do(quick)
    assert server.submit(budget=BUDGET, preview=False)["answer"] is None
    job = server.submit(budget=BUDGET, deliver="manifest")
    assert (job["status"], job["answer"]["revision"]) == ("queued", 1)
    assert job["answer"]["manifest_sha256"] == first_manifest(quick).sha256
    while (lease := worker.claim()) is not None and lease["job_id"] != job["id"]:
        worker.finish("failed", problem={"title": "x", "detail": "x"})
    assert lease is not None
    assert "first_manifest.json" in {artifact["name"] for artifact in lease["artifacts"]}
    worker.do(measurement)
    assert server.job(job["id"])["answer"]["revision"] == 2
