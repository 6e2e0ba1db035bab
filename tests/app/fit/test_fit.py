from __future__ import annotations

import pytest

from bitbudget.app.core.devices import DEVICES
from bitbudget.app.core.measurement import Measurement
from tests.support.http import Server


@pytest.fixture
def met(server: Server, measurement: Measurement) -> str:
    """A model whose inventory the server knows."""
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    return "org/model"


def test_devices_are_listed(server: Server) -> None:
    page = server.http.get("/v1/devices").json()
    assert {item["name"] for item in page["items"]} == set(DEVICES)
    assert page["next_cursor"] is None


def test_a_known_model_fits_at_once(server: Server, met: str) -> None:
    body = {"model": met, "device": "m4-pro-24gb", "context": 128}
    report = server.http.post("/v1/fit", json=body).json()
    assert report["now"]["fits"]
    assert report["best_uniform"]["file_bytes"] <= report["weights_limit_bytes"]
    assert report["smallest"]["file_bytes"] < report["now"]["file_bytes"]
    assert [time["effort"] for time in report["efforts"]] == ["quick", "standard", "thorough"]
    for time in report["efforts"]:
        assert 0 < time["manifest_seconds"] < time["checkpoint_seconds"]
    assert report["timed_on"] == "a typical machine"


def test_a_worker_whose_speed_is_known_is_what_efforts_are_timed_on(
    server: Server, met: str
) -> None:
    body = {"model": met, "device": "m4-pro-24gb", "context": 128}
    before = server.http.post("/v1/fit", json=body).json()["efforts"]
    slow = {"flops_per_second": 1e9, "coded_per_second": 1e6, "disk_bytes_per_second": 1e7}
    capabilities = {
        "chip": "slow",
        "memory_bytes": 1,
        "backend": "cpu",
        "mlx_version": "1",
        "speed": slow,
    }
    registered = {"name": "slow one", "capabilities": capabilities}
    assert server.http.post("/v1/workers", json=registered).status_code == 201
    report = server.http.post("/v1/fit", json=body).json()
    assert report["timed_on"] == "slow one"
    for then, now in zip(before, report["efforts"], strict=True):
        assert now["manifest_seconds"] > then["manifest_seconds"]


def test_an_unknown_model_says_what_to_do(server: Server) -> None:
    answer = server.http.post("/v1/fit", json={"model": "org/new", "device": "m4-pro-24gb"})
    assert (answer.status_code, answer.json()["type"]) == (
        404,
        "urn:bitbudget:problem:unknown-model",
    )
    assert "bitbudget fit" in answer.json()["detail"]


def test_an_unknown_device_is_refused_before_any_work(server: Server) -> None:
    body = {"model": "org/new", "device": "m4-pro-25gb"}
    answers = [
        server.http.post("/v1/fit", json=body),
        server.http.post("/v1/jobs", json={**body, "context": 1024}),
    ]
    for answer in answers:
        assert answer.status_code == 422
        assert "m4-pro-24gb" in answer.json()["detail"]
