from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from typing import Any

import pytest

from bitbudget.app.core.devices import DEVICES
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.measurement import Measurement, Verification
from bitbudget.app.core.measurement_file import file_bytes, file_digest
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.solving import allocate_manifest
from bitbudget.app.measurements import repository
from bitbudget.app.measurements.rows import PreparedMeasurement
from bitbudget.app.models import repository as models
from tests.support.http import Server


@pytest.fixture
def stored(server: Server, measurement: Measurement) -> str:
    """The path of a stored measurement."""
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    return f"/v1/measurements/{measurement.key}"


def test_nothing_is_lost_on_the_way_through_the_database(
    server: Server, measurement: Measurement
) -> None:
    checked = Verification((0.1,), (0.2,), (4.5,), 0.9, 0.8, 1.1)
    full = dataclasses.replace(measurement, verification=checked, warnings=("careful",))
    database, now = server.services.database, server.clock()
    for _ in range(2):
        with database.write() as session:
            models.save(session, "org/model", full.model, full.inventory, now)
            repository.save(session, PreparedMeasurement.of(full), repository.Maker("", ""), now)
    with database.read() as session:
        found = repository.load(session, full.key)
    assert found.to_json() == full.to_json()


def test_the_head_has_the_sizes(server: Server, stored: str, measurement: Measurement) -> None:
    head = server.http.get(stored).json()
    assert head["id"] == measurement.key
    assert head["modules"] == len(measurement.inventory.modules)
    assert 0 < head["minimum_bytes"] < head["source_bytes"]


@pytest.mark.parametrize("sort", ["position", "path", "weights", "alpha_nats"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_tensors_come_sorted_page_by_page(
    server: Server, stored: str, sort: str, order: str
) -> None:
    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"sort": sort, "order": order, "limit": 1}
    while True:
        answer = server.http.get(f"{stored}/tensors", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        seen += page["items"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    keys = [tensor[sort] for tensor in seen]
    assert keys == sorted(keys, reverse=order == "desc")
    assert len({tensor["path"] for tensor in seen}) == len(seen) == 4


def test_tensors_are_filtered(server: Server, stored: str) -> None:
    found = server.http.get(f"{stored}/tensors", params={"layer": 0, "role": "q_proj"}).json()
    assert [tensor["path"] for tensor in found["items"]] == ["model.layers.0.self_attn.q_proj"]
    points = found["items"][0]["points"]
    assert next(p for p in points if p["format"] == "keep")["sqnr_db"] is None
    assert all(p["sqnr_db"] > 0 for p in points if p["format"] == "affine4g64")


def test_a_cursor_of_another_order_is_refused(server: Server, stored: str) -> None:
    page = server.http.get(f"{stored}/tensors", params={"sort": "path", "limit": 1}).json()
    query = {"sort": "weights", "cursor": page["next_cursor"]}
    assert server.http.get(f"{stored}/tensors", params=query).status_code == 404


def test_the_csv_has_every_point(server: Server, stored: str, measurement: Measurement) -> None:
    answer = server.http.get(f"{stored}/tensors.csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == sum(len(curve.points) for curve in measurement.curves)
    assert {"path", "format", "bytes", "kl_nats"} <= rows[0].keys()
    for row in rows:
        curve = next(c for c in measurement.curves if c.path == row["path"])
        for name, value in curve.features.items():
            assert float(row[name]) == value


def test_the_frontier_falls(server: Server, stored: str) -> None:
    found = server.http.get(f"{stored}/frontier").json()
    points = found["breakpoints"]
    assert points[0]["file_bytes"] == found["smallest_bytes"]
    assert all(
        a["file_bytes"] < b["file_bytes"] and a["kl_nats_per_token"] > b["kl_nats_per_token"]
        for a, b in itertools.pairwise(points)
    )
    assert "affine4g64" in {point["name"] for point in found["uniform"]}
    assert len(server.http.get(f"{stored}/frontier?points=2").json()["breakpoints"]) == 2


def test_another_budget_is_solved_from_the_store(server: Server, stored: str) -> None:
    smallest = server.http.get(f"{stored}/frontier").json()["smallest_bytes"]
    answer = server.http.post(f"{stored}/allocations", json={"budget": smallest + 10_000})
    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert body["manifest"]["file_bytes"] + body["slack_bytes"] == smallest + 10_000
    refused = server.http.post(f"{stored}/allocations", json={"budget": smallest - 1})
    assert (refused.status_code, refused.json()["minimum_bytes"]) == (422, smallest)


def test_models_show_their_names_and_measurements(
    server: Server, stored: str, measurement: Measurement
) -> None:
    (model,) = server.http.get("/v1/models").json()["items"]
    assert model["names"] == ["org/model"]
    assert stored.endswith(model["measurements"][0]["id"])
    assert model["weights"] == measurement.inventory.weights


def test_the_guide_has_a_row_for_every_device(server: Server, stored: str) -> None:
    found = server.http.get(f"{stored}/guide", params={"context": 128})
    assert found.status_code == 200
    rows = found.json()["rows"]
    assert [row["device"] for row in rows] == list(DEVICES)
    assert all(0 < row["file_bytes"] <= row["budget_bytes"] for row in rows)
    assert server.http.get(f"{stored}/guide", params={"context": 10**7}).status_code == 422


@pytest.mark.parametrize("path", ["", "/tensors", "/tensors.csv", "/frontier", "/guide"])
def test_an_unknown_measurement_is_not_found(server: Server, path: str) -> None:
    assert server.http.get(f"/v1/measurements/{'0' * 64}{path}").status_code == 404
    assert server.http.get(f"/v1/measurements/%00{path}").status_code == 404


def test_a_measurement_is_exported_and_imported_on_another_server(
    server: Server, stored: str, measurement: Measurement
) -> None:
    answer = server.http.get(f"{stored}/export")
    assert answer.content == file_bytes(measurement)
    assert answer.headers["ETag"] == f'"{file_digest(measurement)}"'
    known = {"If-None-Match": answer.headers["ETag"]}
    assert server.http.get(f"{stored}/export", headers=known).status_code == 304
    other = dataclasses.replace(measurement, effort=Effort.QUICK)
    made = server.http.post("/v1/measurements", content=file_bytes(other))
    assert made.status_code == 201, made.text
    assert made.headers["Location"] == f"/v1/measurements/{other.key}"
    assert made.json()["imported"] is True
    assert server.http.get(stored).json()["imported"] is False
    again = server.http.post("/v1/measurements", content=file_bytes(other))
    assert again.json()["id"] == other.key
    asked = {"budget": 120_000}
    solved = server.http.post(f"/v1/measurements/{other.key}/allocations", json=asked)
    assert (
        solved.json()["manifest_sha256"]
        == allocate_manifest(other, AllocationRequest.model_validate(asked)).sha256
    )
    page = server.http.get(f"/models/{other.model.digest}", params={"measurement": other.key})
    assert "an imported file" in page.text


def test_what_is_wrong_with_an_import_is_said(server: Server, measurement: Measurement) -> None:
    data = file_bytes(measurement).replace(b'"tokens":4096', b'"tokens":-1')
    answer = server.http.post("/v1/measurements", content=data)
    assert answer.status_code == 422
    assert "tokens" in answer.json()["detail"]
    answer = server.http.post("/v1/measurements", content=b" " * (2**24 + 1))
    assert answer.status_code == 413
    assert server.http.get(f"/v1/measurements/{measurement.key}").status_code == 404


def test_an_import_neither_names_a_model_nor_outlives_what_a_worker_measures(
    server: Server, measurement: Measurement
) -> None:
    small = dataclasses.replace(measurement.inventory, passthrough=())
    forged = dataclasses.replace(measurement, inventory=small)
    assert server.http.post("/v1/measurements", content=file_bytes(forged)).status_code == 201
    assert server.services.models.find(measurement.model.name) is None
    server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    found = server.http.get(f"/v1/measurements/{measurement.key}/export").content
    assert found == file_bytes(measurement)
    assert server.services.models.inventory(measurement.model.digest) == measurement.inventory
    assert server.http.get(f"/v1/measurements/{measurement.key}").json()["imported"] is False
    refused = server.http.post("/v1/measurements", content=file_bytes(forged))
    assert refused.status_code == 422
    assert "inventory" in refused.json()["detail"]
    again = dataclasses.replace(measurement, tokens=1)
    assert server.http.post("/v1/measurements", content=file_bytes(again)).status_code == 409
