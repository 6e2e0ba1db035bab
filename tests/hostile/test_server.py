"""Hostile bodies, names and paths, sent to the running application."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from fastapi.testclient import TestClient

from bitbudget.app.core.measurement import Encoder, Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.solving import allocate_manifest
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.migrate import upgrade
from tests.hostile import manifest_cases, measurement_cases, request_cases
from tests.hostile.conftest import LIMIT_SECONDS
from tests.support.http import FakeClock, FakeWorker, Server, opened
from tests.support.postgres import Cluster, running
from tests.support.reports import benchmark, evaluation, job_result
from tests.support.speed import check_processor_time

pytestmark = pytest.mark.hostile

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def hostile_cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    url = ""
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("hostile_cluster")
        url = cluster.create_database("hostile")
    settings = Settings(
        home=home, database_url=url, sweep_seconds=3600, model_roots=str(home / "models")
    )
    database = Database(settings.resolved_database_url)
    upgrade(database)
    database.dispose()
    clock = FakeClock()
    app = create_app(settings, clock=clock)
    with opened(app, raise_server_exceptions=False) as http:
        yield Server(http, app.state.services, clock)


@pytest.fixture
def worker(server: Server) -> Iterator[FakeWorker]:
    server.submit()
    worker = server.worker()
    assert worker.claim() is not None
    yield worker
    worker.finish("failed", problem={"type": "x", "title": "x", "status": 422, "detail": "x"})


def _refused(answer: Any, started: float) -> dict[str, Any]:
    check_processor_time(started, LIMIT_SECONDS)
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert 5 < len(problem["detail"]) < 1000
    assert "Traceback" not in answer.text
    return problem


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(body, id=name)
        for name, body in (*request_cases.cases(), *request_cases.path_cases())
    ],
)
def test_a_hostile_job_is_a_problem(server: Server, body: bytes) -> None:
    before = len(server.http.get("/v1/jobs").json()["items"])
    started = time.process_time()
    _refused(server.http.post("/v1/jobs", content=body, headers=JSON), started)
    assert len(server.http.get("/v1/jobs").json()["items"]) == before


@pytest.mark.parametrize(
    "model",
    [
        "/etc/passwd",
        "/",
        "../../../etc",
        "models/../../..",
        "~root",
        "~/.ssh",
        "/proc/self/environ",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "org/name@../../x",
        "org/name/../../x",
        "a\nb/c",
        "a\x00b",
        "\u202e/etc",
        "C:\\Windows",
        "~nobody-of-this-name/x",
        "/" + "x/" * 500,
        "//host/share",
    ],
)
def test_a_model_outside_the_roots_is_a_problem(server: Server, model: str) -> None:
    started = time.process_time()
    body = {"model": model, "budget": "1GiB"}
    problem = _refused(server.http.post("/v1/jobs", json=body), started)
    assert problem["type"].startswith("urn:bitbudget:problem:invalid")


CURSORS = {
    "deep": "[" * 3000,
    "another-zone": ["2026-01-02T03:04:05+23:59", "0"],
    "first-moment": ["0001-01-01T00:00:00+14:00", "0"],
    "last-moment": ["9999-12-31T23:59:59-14:00", "0"],
    "digits": [10**400],
    "surrogate": ["\ud800", "\ud800"],
}


@pytest.mark.parametrize("cursor", CURSORS.values(), ids=CURSORS.keys())
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/v1/workers", "/", "/models"])
def test_a_hostile_cursor_is_a_page_or_a_problem(server: Server, path: str, cursor: object) -> None:
    text = cursor if isinstance(cursor, str) else json.dumps(cursor)
    told = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    answer = server.http.get(path, params={"cursor": told})
    assert answer.status_code < 500, answer.text[:300]


FITS = {
    "context": {"context": "9" * 500, "device": "m4-16gb"},
    "budget": {"budget": "9" * 500},
    "nobody": {"model": "~nobody-of-this-name/x"},
    "surrogate": {"model": "\udcff/\udcff".encode("utf-8", "surrogatepass")},
    "nul": {"model": "\x00"},
    "long": {"model": "/" + "x" * 500},
}


@pytest.mark.parametrize("fields", FITS.values(), ids=FITS.keys())
def test_a_hostile_question_of_the_form_is_answered(server: Server, fields: dict[str, Any]) -> None:
    asked = {"model": "org/model", **fields}
    assert server.http.get("/fit", params=asked).status_code < 500


def test_a_form_with_a_context_of_5000_digits_is_shown_again(server: Server) -> None:
    form = {"model": "org/model", "budget": "1GiB", "context": "9" * 5000}
    assert server.http.post("/submit", data=form).status_code == 422


def test_a_loop_of_links_is_a_problem(server: Server) -> None:
    loop = server.services.settings.home_folder / "models" / "loop"
    loop.symlink_to(loop)
    body = {"model": str(loop), "budget": "1GiB"}
    _refused(server.http.post("/v1/jobs", json=body), time.process_time())


def test_a_link_out_of_a_root_is_a_problem(server: Server, tmp_path: Path) -> None:
    root = server.services.settings.home_folder / "models"
    (root / "out").symlink_to(tmp_path)
    body = {"model": str(root / "out"), "budget": "1GiB"}
    _refused(server.http.post("/v1/jobs", json=body), time.process_time())


@pytest.mark.parametrize(
    "data", [pytest.param(data, id=name) for name, data in manifest_cases.cases()]
)
def test_a_hostile_manifest_is_not_stored(worker: FakeWorker, data: bytes) -> None:
    started = time.process_time()
    _refused(worker.upload("manifest.json", data), started)


def test_the_measurement_that_the_cases_damage_is_sound() -> None:
    assert Measurement.from_json(json.dumps(measurement_cases.MEASUREMENT).encode()).curves


@pytest.mark.parametrize(
    "data", [pytest.param(data, id=name) for name, data in measurement_cases.cases()]
)
def test_a_hostile_measurement_is_not_stored(worker: FakeWorker, data: bytes) -> None:
    started = time.process_time()
    _refused(worker.upload("measurement.json", data), started)


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "x.py", "manifest.json%00", "%2e%2e", "a" * 500, "CON"]
)
def test_an_artifact_of_another_name_is_not_stored(worker: FakeWorker, name: str) -> None:
    home = worker.server.services.settings.home_folder
    before = sorted(home.rglob("*"))
    answer = worker.upload(name, b"{}")
    assert 400 <= answer.status_code < 500
    assert sorted(home.rglob("*")) == before


def test_wrong_bytes_are_not_stored(worker: FakeWorker) -> None:
    _refused(worker.upload("evaluation.json", b"{}", said=b"[]"), time.process_time())


def test_the_application_still_answers(server: Server) -> None:
    assert server.http.get("/readyz").status_code == 200
    server.submit()


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**53 + 1,
    2**70,
    10**323,
    1e308,
    -0.5,
    "",
    "x" * 10_000,
    "\x1b]0;owned\x07",
    "a\x00b",
    "=cmd()",
    [],
    [[]],
    {},
    {"a": {"b": [1]}},
)
PAGES = ("/", "/models", "/benchmarks", "/machines", "/v1/jobs", "/v1/models", "/v1/workers")
CASES, BATCH = 2000, 40
PROBLEM = {"type": "urn:x", "title": "x", "status": 422, "detail": "x"}


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    entries: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    entries = enumerate(value) if isinstance(value, list) else entries
    for key, inner in entries:
        yield from _places(inner, (*at, key))


def _changed(document: Any, chance: random.Random) -> Any:
    """Put one to three odd values into a sound document, or take parts away."""
    changed = copy.deepcopy(document)
    for _ in range(chance.randint(1, 3)):
        place = chance.choice([place for place in _places(changed) if place])
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        if chance.random() < 0.15:
            del inner[place[-1]]
        else:
            inner[place[-1]] = copy.deepcopy(chance.choice(ODD))
        if not changed:
            break
    return changed


def _sound() -> dict[str, Any]:
    """Return one sound document for each thing that a worker says."""
    measured = Measurement.from_json(json.dumps(measurement_cases.MEASUREMENT).encode())
    measured = dataclasses.replace(measured, encoder=Encoder.YAQA, text="self")
    request = AllocationRequest(budget="1GiB")
    manifest = allocate_manifest(measured, request)
    head = json.loads(measured.to_json())
    problem = {"type": "urn:x", "title": "x", "status": 500, "detail": "x", "fields": {"a": 1}}
    result = job_result(manifest).model_dump(mode="json", by_alias=True)
    return {
        "inventory.json": {"model": head["model"], "inventory": head["inventory"]},
        "measurement.json": head,
        "manifest.json": json.loads(manifest.to_bytes()),
        "evaluation.json": json.loads(evaluation().to_json()),
        "benchmark.json": json.loads(benchmark().to_json()),
        "renew": {
            "progress": {"step": "measure", "done": 1, "total": 2, "detail": "x"},
            "log": [{"number": 1, "step": "measure", "detail": "x"}],
        },
        "crashed": {"problem": problem},
        "succeeded": {"result": result},
    }


class Later:
    """Keeps requests, which are sent one after the other within the server's event loop.

    A request from another thread takes half as long again: it is handed over several times.
    """

    def __init__(self, http: TestClient) -> None:
        self._http = http
        self._kept: list[httpx2.Request] = []

    def put(self, url: str, **options: Any) -> None:
        self._kept.append(self._http.build_request("PUT", url, **options))

    def get(self, url: str) -> None:
        self._kept.append(self._http.build_request("GET", url))

    def answers(self) -> list[httpx2.Response]:
        assert self._http.portal is not None
        return self._http.portal.call(self._sent)

    async def _sent(self) -> list[httpx2.Response]:
        kept, self._kept = self._kept, []
        transport = httpx2.ASGITransport(self._http.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport) as client:
            return [await client.send(request) for request in kept]


def test_no_report_of_a_worker_breaks_the_server(server: Server) -> None:
    chance, sound = random.Random(16), _sound()  # noqa: S311 - the same cases every time
    taken: Counter[int] = Counter()
    later = Later(server.http)
    for _ in range(CASES // BATCH):
        worker = server.worker("fuzz")
        job = server.submit(deliver="checkpoint")["id"]
        while (worker.claim() or {}).get("job_id", job) != job:
            worker.finish("failed", problem=PROBLEM)
        for name in ("inventory.json", "measurement.json"):
            assert worker.upload(name, json.dumps(sound[name]).encode()).is_success
        told = []
        reporting = FakeWorker(
            dataclasses.replace(server, http=cast("TestClient", later)), {}, worker.lease
        )
        for _ in range(BATCH):
            name = chance.choice(list(sound))
            odd = _changed(sound[name], chance)
            told.append((name, odd))
            if name.endswith(".json"):
                reporting.upload(name, json.dumps(odd).encode())
            elif name == "renew":
                reporting.renew(**{"progress": None, **odd})
            else:
                reporting.finish(name, **odd)
        for page in (*PAGES, f"/jobs/{job}", f"/v1/jobs/{job}/report"):
            later.get(page)
        answers = later.answers()
        for (name, odd), answer in zip(told, answers, strict=False):
            assert answer.status_code < 500, (name, odd, answer.text[:300])
            taken[answer.status_code // 100] += 1
        for answer in answers[BATCH:]:
            assert answer.status_code < 500, (answer.url, told)
    assert taken.total() == CASES
    assert taken[4] > CASES / 4
