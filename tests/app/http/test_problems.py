from __future__ import annotations

import pytest

from tests.support.http import Server


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs", "GET, POST"),
        ("/v1/workers", "GET, POST"),
        ("/v1/leases/x/artifacts/manifest.json", "GET, PUT"),
        ("/livez", "GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(server: Server, path: str, allowed: str) -> None:
    answer = server.http.delete(path)
    assert answer.status_code == 405
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Allow"] == allowed


def test_every_error_of_the_document_is_a_problem(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (path, method)
    properties = document["components"]["schemas"]["ProblemDetails"]["properties"]
    assert {"type", "title", "status", "detail", "instance", "minimum_bytes"} <= set(properties)


OPERATIONS = {
    "allocate",
    "askFollowup",
    "cancelJob",
    "claimFollowup",
    "claimLease",
    "downloadTensors",
    "endFollowup",
    "exportMeasurement",
    "finishLease",
    "fit",
    "getArtifact",
    "getCheckpointFile",
    "getFrontier",
    "getGuide",
    "getJob",
    "getManifest",
    "getMeasurement",
    "getMetrics",
    "getReport",
    "importMeasurement",
    "isAlive",
    "isReady",
    "labelJob",
    "listCheckpointFiles",
    "listDevices",
    "listFollowups",
    "listJobs",
    "listModels",
    "listTensors",
    "listWorkers",
    "putArtifact",
    "registerWorker",
    "renewFollowup",
    "renewLease",
    "streamJobEvents",
    "submitJob",
}


def test_operation_ids_are_stable(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    found = {o["operationId"] for item in document["paths"].values() for o in item.values()}
    assert found == OPERATIONS


def test_the_documentation_needs_no_other_site(server: Server) -> None:
    page = server.http.get("/docs")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert 'src="http' not in page.text
    for operation in OPERATIONS:
        assert f'id="{operation}"' in page.text


def test_every_answer_carries_a_request_id(server: Server) -> None:
    given = server.http.get("/livez", headers={"X-Request-ID": "abc-1"})
    assert given.headers["X-Request-ID"] == "abc-1"
    made = server.http.get("/livez", headers={"X-Request-ID": "no spaces allowed"})
    assert made.headers["X-Request-ID"] != "no spaces allowed"


def test_metrics_count_requests_jobs_and_workers(server: Server) -> None:
    server.submit()
    server.worker()
    server.http.get("/v1/jobs/x")
    text = server.http.get("/metrics").text
    route = 'method="GET",route="/v1/jobs/{job_id}",status="404"'
    assert f"bitbudget_requests_total{{{route}}} 1.0" in text
    assert 'bitbudget_jobs{status="queued"} 1.0' in text
    assert "bitbudget_workers 1.0" in text
    assert "bitbudget_event_streams 0.0" in text
