from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from bitbudget.app.auth.principal import Scope
from bitbudget.app.auth.quota import RequestQuota
from bitbudget.app.auth.service import NewKey
from bitbudget.app.auth.tokens import Token, TokenKind, hash_secret, new_secret
from bitbudget.app.core.errors import InvalidRequestError, NotFoundError
from bitbudget.app.http.errors import QuotaExceededError
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import FakeClock, Server, bearer

JOB = {"model": "org/model", "budget": "1GiB"}
WORKER = {
    "name": "machine",
    "capabilities": {"chip": "x", "memory_bytes": 1, "backend": "cpu", "mlx_version": "1"},
}


@pytest.fixture
def closed(settings: Settings) -> Iterator[Server]:
    """A server that asks for keys."""
    clock = FakeClock()
    app = create_app(settings.model_copy(update={"require_keys": True}), clock=clock)
    with TestClient(app, base_url="https://bitbudget.example") as http:
        yield Server(http, app.state.services, clock)


def key(server: Server, *scopes: Scope) -> NewKey:
    return server.services.keys.create("test", scopes)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/jobs", Scope.JOBS_READ),
        ("GET", "/v1/jobs/x", Scope.JOBS_READ),
        ("GET", "/v1/jobs/x/events", Scope.JOBS_READ),
        ("GET", "/v1/jobs/x/manifest", Scope.JOBS_READ),
        ("GET", "/v1/jobs/x/report", Scope.JOBS_READ),
        ("POST", "/v1/jobs", Scope.JOBS_WRITE),
        ("POST", "/v1/jobs/x/cancel", Scope.JOBS_WRITE),
        ("GET", "/v1/models", Scope.JOBS_READ),
        ("GET", "/v1/devices", Scope.JOBS_READ),
        ("GET", "/v1/measurements/x", Scope.JOBS_READ),
        ("GET", "/v1/workers", Scope.JOBS_READ),
        ("POST", "/v1/workers", Scope.WORKER),
        ("GET", "/metrics", Scope.JOBS_READ),
    ],
)
def test_every_route_asks_for_its_scope(
    closed: Server, method: str, path: str, scope: Scope
) -> None:
    assert closed.http.request(method, path).status_code == 401
    others = [other for other in Scope if other not in (scope, Scope.ADMIN)]
    wrong = closed.http.request(method, path, headers=bearer(key(closed, *others).token))
    assert wrong.status_code == 403
    assert scope in wrong.json()["detail"]
    for right in (scope, Scope.ADMIN):
        answer = closed.http.request(method, path, headers=bearer(key(closed, right).token))
        assert answer.status_code not in (401, 403)


def test_health_needs_no_key(closed: Server) -> None:
    assert closed.http.get("/livez").status_code == 200
    assert closed.http.get("/readyz").status_code == 200


def test_a_missing_key_says_how_to_send_one(closed: Server) -> None:
    answer = closed.http.get("/v1/jobs")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["type"] == "urn:bitbudget:problem:unauthorized"


def test_a_damaged_revoked_or_expired_key_is_refused(closed: Server) -> None:
    made = key(closed, Scope.JOBS_READ)
    short = closed.services.keys.create("short", [Scope.JOBS_READ], days=1)
    for token in (made.token, short.token):
        assert closed.http.get("/v1/jobs", headers=bearer(token)).status_code == 200
    for damaged in (made.token[:-1], made.token + "x", "bbk_x_y", "x", made.token[4:]):
        assert closed.http.get("/v1/jobs", headers=bearer(damaged)).status_code == 401
    assert closed.services.keys.revoke(made.key.id).revoked_at is not None
    assert closed.http.get("/v1/jobs", headers=bearer(made.token)).status_code == 401
    closed.clock.pass_seconds(86_401)
    assert closed.http.get("/v1/jobs", headers=bearer(short.token)).status_code == 401
    assert not closed.services.keys.has_usable()


def test_last_used_is_kept_to_the_minute(closed: Server) -> None:
    made = key(closed, Scope.JOBS_READ)
    assert closed.services.keys.keys()[0].last_used_at is None
    closed.http.get("/v1/jobs", headers=bearer(made.token))
    first = closed.services.keys.keys()[0].last_used_at
    closed.clock.pass_seconds(30)
    closed.http.get("/v1/jobs", headers=bearer(made.token))
    assert closed.services.keys.keys()[0].last_used_at == first
    closed.clock.pass_seconds(31)
    closed.http.get("/v1/jobs", headers=bearer(made.token))
    assert closed.services.keys.keys()[0].last_used_at != first


def test_a_key_needs_a_name_and_a_scope(closed: Server) -> None:
    for name, scopes in (("", [Scope.ADMIN]), ("x", [])):
        with pytest.raises(InvalidRequestError):
            closed.services.keys.create(name, scopes)
    with pytest.raises(NotFoundError):
        closed.services.keys.revoke("f" * 32)


def test_workers_and_leases_have_tokens_of_their_own(closed: Server) -> None:
    writer = bearer(key(closed, Scope.JOBS_WRITE).token)
    registrar = bearer(key(closed, Scope.WORKER).token)
    assert closed.http.post("/v1/jobs", json=JOB, headers=writer).status_code == 202
    first, second = (
        closed.http.post("/v1/workers", json=WORKER, headers=registrar).json() for _ in range(2)
    )
    body = {"worker_id": first["worker_id"]}
    for headers in ({}, registrar, bearer(second["token"])):
        assert closed.http.post("/v1/leases", json=body, headers=headers).status_code == 401
    answer = closed.http.post("/v1/leases", json=body, headers=bearer(first["token"]))
    assert answer.status_code == 201
    lease = answer.json()
    path, renewal = f"/v1/leases/{lease['lease_id']}", {"attempt": 1}
    for headers in ({}, registrar, bearer(first["token"]), bearer(lease["token"] + "x")):
        assert closed.http.put(path, json=renewal, headers=headers).status_code == 401
    assert closed.http.put(path, json=renewal, headers=bearer(lease["token"])).status_code == 200
    jobs = closed.http.get("/v1/jobs", headers=bearer(lease["token"]))
    assert jobs.status_code == 401


def test_an_open_server_still_checks_a_token_that_is_sent(server: Server) -> None:
    assert server.http.get("/v1/jobs").status_code == 200
    assert server.http.get("/v1/jobs", headers=bearer("bbk_x_y")).status_code == 401
    worker = server.worker()
    server.submit()
    worker.claim()
    wrong = server.http.put(
        f"/v1/leases/{worker.lease['lease_id']}",
        json={"attempt": 1},
        headers=bearer(worker.welcome["token"]),
    )
    assert wrong.status_code == 401


def test_secrets_are_neither_stored_nor_logged(
    closed: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = key(closed, Scope.ADMIN)
    parsed = Token.parse(made.token)
    assert parsed is not None
    closed.http.get("/v1/jobs", headers=bearer(made.token))
    closed.http.get("/v1/jobs", headers=bearer(made.token + "x"))
    closed.http.post("/v1/jobs", json=JOB, headers=bearer(made.token))
    registered = closed.http.post("/v1/workers", json=WORKER, headers=bearer(made.token)).json()
    for secret in (parsed.secret, registered["token"].split("_", 2)[2]):
        assert secret not in caplog.text
        assert secret not in repr(made.key)
    assert parsed.secret not in repr(parsed)
    path = closed.services.settings.home_folder / "bitbudget.db"
    if closed.services.database.is_sqlite:
        stored = b"".join(part.read_bytes() for part in path.parent.glob("bitbudget.db*"))
        assert parsed.secret.encode() not in stored


def test_a_key_has_a_limit_of_open_jobs(settings: Settings) -> None:
    limited = settings.model_copy(update={"max_open_jobs_per_key": 2})
    app = create_app(limited, clock=FakeClock())
    with TestClient(app, base_url="http://127.0.0.1") as http:
        answers = [http.post("/v1/jobs", json=JOB) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert "Retry-After" in answers[2].headers


def test_a_key_has_a_limit_of_requests() -> None:
    quota = RequestQuota(per_minute=3)
    for _ in range(3):
        quota.spend("a")
    with pytest.raises(QuotaExceededError):
        quota.spend("a")
    quota.spend("b")


def test_another_site_cannot_submit_with_a_plain_form(server: Server) -> None:
    body = '{"model": "org/model", "budget": "1GiB"}'
    answer = server.http.post("/v1/jobs", content=body, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422


def test_tokens_compare_by_hash() -> None:
    secret = new_secret()
    token = Token(TokenKind.KEY, "a" * 32, secret)
    assert Token.parse(str(token)) == token
    assert token.proves("a" * 32, hash_secret(secret))
    assert not token.proves("a" * 32, hash_secret(secret + "x"))
    assert not token.proves("b" * 32, hash_secret(secret))
    for wrong in ("", "bbk", f"bbx_{'a' * 32}_s", f"bbk_{'A' * 32}_s", f"bbk_{'a' * 32}_ü"):
        assert Token.parse(wrong) is None
