"""Benchmarks of several workers on one page."""

from __future__ import annotations

from bitbudget.app.core.measurement import Measurement
from tests.support.http import Server
from tests.support.reports import benchmark


def test_benchmarks_of_two_workers_stand_side_by_side(
    server: Server, measurement: Measurement
) -> None:
    jobs = []
    for chip, speed in (("Apple M4 Pro", 50.0), ("Apple M2", 20.0)):
        job = server.submit(deliver="checkpoint", budget=300_000)
        jobs.append(job["id"])
        worker = server.worker(chip)
        worker.claim()
        assert worker.upload("benchmark.json", benchmark(chip, speed, 40.0).to_json()).is_success
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
    for job_id in jobs:
        assert f'href="/jobs/{job_id}"' in page
    tables = server.http.get(f"/jobs/{jobs[0]}.json").json()["tables"]
    (timed,) = [table for table in tables if table["name"] == "benchmark"]
    assert ["decode tokens per second", 50.0, 40.0] in timed["rows"]
