"""Benchmarks of several workers on one page."""

from __future__ import annotations

import json

from bitbudget.app.core.measurement import Measurement
from tests.support.http import Server


def report(chip: str, speed: float, predicted: float) -> bytes:
    return json.dumps(
        {
            "device": {"chip": chip, "system": "Darwin 25", "versions": {"mlx": "0.32.4"}},
            "decode_tokens_per_second": speed,
            "prefill_tokens_per_second": 900.0,
            "roofline_fraction": 0.7,
            "prediction": {"measured_over_predicted": speed / predicted},
        }
    ).encode()


def test_benchmarks_of_two_workers_stand_side_by_side(
    server: Server, measurement: Measurement
) -> None:
    for chip, speed in (("Apple M4 Pro", 50.0), ("Apple M2", 20.0)):
        server.submit(deliver="checkpoint", budget=300_000)
        worker = server.worker(chip)
        worker.claim()
        assert worker.upload("benchmark.json", report(chip, speed, 40.0)).is_success
        worker.do(measurement)
    table = server.http.get("/benchmarks.json").json()["speed"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert {row["machine"]: row["of the prediction"] for row in rows} == {
        "Apple M4 Pro": 1.25,
        "Apple M2": 0.5,
    }
    assert {row["of the roofline"] for row in rows} == {0.7}
    assert {row["system"] for row in rows} == {"Darwin 25"}
    page = server.http.get("/benchmarks").text
    assert "Apple M2" in page
    assert "0.32.4" in page
