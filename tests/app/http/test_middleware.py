from __future__ import annotations

import pytest

from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import FakeClock, Server, opened
from tests.support.reports import evaluation

JOB = {"model": "org/model", "budget": "1GiB"}


def test_a_large_body_is_refused(settings: Settings) -> None:
    limited = settings.model_copy(update={"max_body_bytes": 1000, "max_artifact_bytes": 5000})
    app = create_app(limited, clock=FakeClock())
    with opened(app) as http:
        large = http.post("/v1/jobs", json={**JOB, "text": "x" * 2000})
        assert (large.status_code, large.headers["Content-Type"]) == (
            413,
            "application/problem+json",
        )
        server = Server(http, app.state.services, FakeClock())
        server.submit()
        worker = server.worker()
        worker.claim()
        assert worker.upload(
            "evaluation.json", evaluation(kl_per_window=[0.5] * 200).to_json()
        ).is_success
        assert worker.upload("benchmark.json", b" " * 6000).status_code == 413


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
def test_an_open_server_answers_to_loopback_names_only(server: Server, host: str) -> None:
    answer = server.http.get("/v1/jobs", headers={"Host": host})
    assert answer.status_code == 421
    assert server.http.get("/v1/jobs", headers={"Host": "localhost:8765"}).status_code == 200
    assert server.http.get("/v1/jobs", headers={"Host": "[::1]:8765"}).status_code == 200
