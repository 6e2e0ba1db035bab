"""The token in the home: who has it is the server's user, and nobody else on the machine is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient

from bitbudget.app.auth.dependencies import TOKEN_COOKIE
from bitbudget.app.client.client import Client
from bitbudget.app.client.transport import ServerProblemError
from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import FakeClock, Server, bearer
from tests.support.live import live_server

JOB = {"model": "org/model", "budget": "1GiB"}


@pytest.fixture
def stranger(server: Server) -> TestClient:
    """Another user of the machine: reaches the port, cannot read the home."""
    return TestClient(server.http.app, base_url="http://127.0.0.1", follow_redirects=False)


def test_the_token_is_made_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    first = HomeToken(tmp_path).text()
    path = tmp_path / "token"
    assert (HomeToken(tmp_path).text(), HomeToken(tmp_path).known()) == (first, first)
    assert (path.stat().st_mode & 0o777, len(first) >= 43) == (0o600, True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["token"]
    path.chmod(0o644)  # others may have read it
    assert HomeToken(tmp_path).text() != first
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("POST", "/v1/workers"),
        ("POST", "/v1/leases"),
        ("POST", "/v1/fit"),
        ("GET", "/metrics"),
        ("GET", "/index.json"),
        ("GET", "/fit?model=/root&settled=true"),
        ("POST", "/submit"),
    ],
)
def test_a_request_without_it_is_refused_and_told_what_to_do(
    stranger: TestClient, method: str, path: str
) -> None:
    asked = {"worker_id": "x"} if path == "/v1/leases" else JOB
    body = asked if method == "POST" else None
    for token in ("x" * 43, "\u00fc", "bbk_x_y"):
        headers = {b"Authorization": f"Bearer {token}".encode()}
        assert stranger.request(method, path, headers=headers, json=body).status_code == 401
    told = stranger.request(method, path, json=body)
    assert told.status_code == 401
    assert any(word in told.text for word in ("bitbudget serve", "BITBUDGET_HOME"))


def test_a_lease_is_nobody_elses(server: Server, stranger: TestClient) -> None:
    server.submit()
    worker = server.worker()
    assert worker.claim() is not None
    path = f"/v1/leases/{worker.lease['lease_id']}"
    for token in (None, "x" * 43, worker.welcome["token"]):
        headers = {} if token is None else bearer(token)
        assert stranger.put(path, json={"attempt": 1}, headers=headers).status_code == 401
    assert worker.renew().is_success


def test_the_link_signs_a_browser_in(server: Server, stranger: TestClient) -> None:
    token = server.services.access.home_token.text()
    assert stranger.get("/").status_code == 401
    wrong = stranger.get("/?token=wrong")
    assert (wrong.status_code, TOKEN_COOKIE in stranger.cookies) == (401, False)
    taken = stranger.get("/models", params={"cursor": "x", "token": token})
    assert (taken.status_code, taken.headers["Location"]) == (303, "/models?cursor=x")
    cookie = taken.headers["set-cookie"].lower()
    assert ("httponly" in cookie, "samesite=strict" in cookie) == (True, True)
    assert stranger.get("/").status_code == 200
    ours = {"Sec-Fetch-Site": "same-origin"}
    assert stranger.post("/submit", data=JOB, headers=ours).status_code == 303
    assert stranger.post("/v1/jobs", json=JOB).status_code == 401  # a browser says whose page
    away = stranger.get(f"//evil.example/?token={token}")
    assert not away.headers.get("Location", "/").startswith("//")


def test_it_opens_no_server_that_asks_for_keys(settings: Settings) -> None:
    token = HomeToken(settings.home_folder).text()
    locked = create_app(settings.model_copy(update={"require_keys": True}), clock=FakeClock())
    with TestClient(locked, base_url="http://127.0.0.1") as http:
        assert http.get("/v1/jobs", headers=bearer(token)).status_code == 401
        assert http.get("/", params={"token": token}, follow_redirects=False).status_code == 401


@pytest.mark.e2e
def test_commands_workers_and_programs_of_its_user_carry_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def jobs(home: Path, server: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bitbudget.app.cli", "jobs", "--server", server, "--json"],
            env={**os.environ, "BITBUDGET_HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )

    with live_server(tmp_path / "home") as server:
        assert json.loads(jobs(tmp_path / "home", server.url).stdout) == {"jobs": []}
        refused = jobs(tmp_path / "another", server.url)
        assert (refused.returncode, "BITBUDGET_HOME" in refused.stdout) == (1, True)
        assert httpx2.get(f"{server.url}/v1/jobs").status_code == 401
        monkeypatch.setenv("BITBUDGET_HOME", str(tmp_path / "home"))
        with Client(server.url) as client:
            assert list(client.jobs()) == []
        monkeypatch.setenv("BITBUDGET_HOME", str(tmp_path / "another"))
        with Client(server.url) as client, pytest.raises(ServerProblemError, match="token"):
            list(client.jobs())
