"""Jobs whose model was measured elsewhere: the measurement is imported, and a job names it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bitbudget.app.core.effort import Effort
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.measurement_file import file_bytes
from bitbudget.app.leases.checks import KnownModel
from tests.support.http import Server

ORIGIN = f"datasets/me/curves@{'a' * 40}"


@pytest.fixture
def imported(server: Server, measurement: Measurement) -> str:
    """The id of a measurement that was imported."""
    answer = server.http.post(
        "/v1/measurements", content=file_bytes(measurement), params={"origin": ORIGIN}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def read(measurement: Measurement) -> bytes:
    """What a worker says of the model that the measurement is of."""
    return (
        KnownModel(model=measurement.model, inventory=measurement.inventory)
        .model_dump_json()
        .encode()
    )


def test_a_worker_compares_the_weights_before_a_job_is_answered(
    server: Server, measurement: Measurement, imported: str
) -> None:
    given = dataclasses.replace(measurement, origin=ORIGIN)
    job = server.submit(measurement=imported)
    assert (job["status"], job["answer"], job["measurement_id"]) == ("queued", None, imported)
    worker = server.worker()
    lease = worker.claim()
    assert lease is not None
    assert [each["name"] for each in lease["artifacts"]] == ["measurement.json"]
    assert worker.upload("inventory.json", read(measurement)).status_code == 200
    digest = worker.do(given)
    ended = server.job(job["id"])
    assert (ended["status"], ended["answer"]["manifest_sha256"]) == ("succeeded", digest)
    manifest = Manifest.from_bytes(server.http.get(f"/v1/jobs/{job['id']}/manifest").content)
    assert manifest.origin == ORIGIN
    assert f"its importer says is from {ORIGIN}" in server.http.get(f"/jobs/{job['id']}").text


def test_it_is_answered_at_once_where_a_worker_has_read_these_weights(
    server: Server, measurement: Measurement, imported: str
) -> None:
    server.submit(effort="quick")
    worker = server.worker()
    worker.claim()
    assert worker.upload("inventory.json", read(measurement)).status_code == 200
    job = server.submit(measurement=imported)
    assert job["status"] == "succeeded"
    assert job["answer"]["file_bytes"] <= job["answer"]["budget_bytes"]


def test_the_work_of_one_job_does_not_make_it_the_answer_to_others(
    server: Server, measurement: Measurement, imported: str
) -> None:
    server.submit(measurement=imported)
    worker = server.worker()
    worker.claim()
    worker.do(dataclasses.replace(measurement, origin=ORIGIN))
    assert server.http.get(f"/v1/measurements/{imported}").json()["imported"] is True
    assert server.submit()["status"] == "queued"


def test_a_worker_cannot_answer_it_with_another_measurement(
    server: Server, measurement: Measurement, imported: str
) -> None:
    server.submit(measurement=imported)
    worker = server.worker()
    worker.claim()
    model = dataclasses.replace(measurement.model, digest="b" * 64)
    other = dataclasses.replace(measurement, model=model)
    refused = worker.upload("measurement.json", other.to_json())
    assert refused.status_code == 422
    assert imported in refused.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"measurement": "c" * 64}, "none with id"),
        ({"effort": "quick"}, "effort"),
        ({"rotation": "folded"}, "rotation"),
        ({"max_minutes": 5}, "max_minutes"),
        ({"measurement": "C" * 64}, "measurement"),
    ],
)
def test_what_is_wrong_with_the_request_is_said(
    server: Server, imported: str, asked: dict[str, Any], told: str
) -> None:
    body = {"model": "org/model", "budget": "1GiB", "measurement": imported, **asked}
    answer = server.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert told in answer.text


def test_where_it_was_taken_from_is_a_place_on_the_hub(
    server: Server, measurement: Measurement
) -> None:
    quick = dataclasses.replace(measurement, effort=Effort.QUICK)
    said = {"origin": "<script>"}
    answer = server.http.post("/v1/measurements", content=file_bytes(quick), params=said)
    assert answer.status_code == 422
    assert "origin" in answer.json()["detail"]
