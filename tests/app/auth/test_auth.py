from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import anyio
import pytest
from fastapi.testclient import TestClient

from bitbudget.app.auth.dependencies import TOKEN_COOKIE
from bitbudget.app.auth.principal import Scope
from bitbudget.app.auth.quota import RequestQuota
from bitbudget.app.auth.service import NewKey
from bitbudget.app.auth.tokens import Token, TokenKind, hash_secret, new_secret
from bitbudget.app.core.errors import InvalidRequestError, NotFoundError
from bitbudget.app.http.errors import QuotaExceededError
from bitbudget.app.jobs.notifications import Pulse
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import FakeClock, FakeWorker, Server, bearer, opened

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
        ("GET", "/v1/measurements/x/export", Scope.JOBS_READ),
        ("POST", "/v1/measurements", Scope.MEASUREMENTS_WRITE),
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
    with opened(app) as http:
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


def registered(server: Server, token: str) -> FakeWorker:
    welcome = server.http.post("/v1/workers", json=WORKER, headers=bearer(token)).json()
    return FakeWorker(server, welcome)


def test_what_a_revoked_key_let_in_is_out_at_once(closed: Server) -> None:
    submitter, made = key(closed, Scope.JOBS_WRITE), key(closed, Scope.WORKER)
    for _ in range(2):
        assert closed.http.post("/v1/jobs", json=JOB, headers=bearer(submitter.token)).is_success
    worker = registered(closed, made.token)
    assert worker.claim() is not None
    assert worker.renew().status_code == 200
    closed.services.keys.revoke(made.key.id)
    assert worker.renew().status_code == 401
    assert worker.upload("evaluation.json", b"{}").status_code == 401
    assert worker.finish("released").status_code == 401
    claim = {"worker_id": worker.welcome["worker_id"]}
    answer = closed.http.post("/v1/leases", json=claim, headers=bearer(worker.welcome["token"]))
    assert answer.status_code == 401


def test_an_event_stream_ends_with_its_key(closed: Server) -> None:
    made = key(closed, Scope.JOBS_WRITE, Scope.JOBS_READ)
    job = closed.http.post("/v1/jobs", json=JOB, headers=bearer(made.token)).json()

    async def follow() -> int:
        services, count = closed.services, 0
        with anyio.fail_after(10):
            async for _ in services.streams.lines(job["id"], 0, made.key.id):
                count += 1
                if count == 2:  # the events so far
                    services.keys.revoke(made.key.id)
        return count

    assert anyio.run(_beside_the_pulse, closed, follow) >= 2


async def _beside_the_pulse(server: Server, follow: Callable[[], Awaitable[int]]) -> int:
    pulse = Pulse(server.services.database, 0.05)
    streams = replace(server.services.streams, pulse=pulse)
    object.__setattr__(server.services, "streams", streams)
    async with anyio.create_task_group() as background:
        background.start_soon(pulse.run)
        count = await follow()
        background.cancel_scope.cancel()
    return count


def test_a_job_is_cancelled_by_its_owner_or_an_admin(closed: Server) -> None:
    mine, other = key(closed, Scope.JOBS_WRITE), key(closed, Scope.JOBS_WRITE)
    admin = key(closed, Scope.ADMIN)
    jobs = [
        closed.http.post("/v1/jobs", json=JOB, headers=bearer(mine.token)).json()["id"]
        for _ in range(2)
    ]
    path = f"/v1/jobs/{jobs[0]}/cancel"
    assert closed.http.post(path, headers=bearer(other.token)).status_code == 403
    assert closed.http.post(path, headers=bearer(mine.token)).json()["status"] == "cancelled"
    path = f"/v1/jobs/{jobs[1]}/cancel"
    assert closed.http.post(path, headers=bearer(admin.token)).json()["status"] == "cancelled"


CROSS_SITE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
]


@pytest.mark.parametrize("said", [*CROSS_SITE, {}])
def test_the_cookie_is_taken_from_our_own_pages_only(closed: Server, said: dict[str, str]) -> None:
    made = key(closed, Scope.ADMIN)
    closed.http.cookies.set(TOKEN_COOKIE, made.token)
    refused = closed.http.post("/v1/jobs", json=JOB, headers=said)
    assert refused.status_code in {401, 403}
    ours = {"Origin": "https://bitbudget.example"}
    job = closed.http.post("/v1/jobs", json=JOB, headers=ours)
    assert job.status_code == 202
    path = f"/v1/jobs/{job.json()['id']}/cancel"
    assert closed.http.post(path, headers=said).status_code in {401, 403}
    assert closed.http.post(path, headers={"Sec-Fetch-Site": "same-origin"}).is_success


@pytest.mark.parametrize("said", CROSS_SITE)
def test_an_open_server_does_nothing_for_another_sites_page(
    server: Server, said: dict[str, str]
) -> None:
    job = server.submit()
    path = f"/v1/jobs/{job['id']}/cancel"
    assert server.http.post(path, headers=said).status_code == 403
    asked = {"model": "/somewhere", "settled": "true"}
    for mode in ("no-cors", "navigate"):
        headers = {**said, "Sec-Fetch-Mode": mode}
        assert server.http.get("/fit", params=asked, headers=headers).status_code == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert server.http.get("/", headers=link).status_code == 200
    assert server.job(job["id"])["status"] == "queued"


@pytest.mark.parametrize(
    "name", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"]
)
def test_an_open_server_answers_nobody_behind_a_proxy(
    server: Server, closed: Server, name: str
) -> None:
    assert server.http.get("/v1/jobs", headers={name: "for=192.0.2.1"}).status_code == 421
    assert closed.http.get("/livez", headers={name: "for=192.0.2.1"}).status_code == 200


def test_a_request_has_one_host(server: Server) -> None:
    hosts = [("Host", "127.0.0.1"), ("Host", "evil.example")]
    assert server.http.get("/v1/jobs", headers=hosts).status_code == 400
