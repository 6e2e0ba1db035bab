"""Every stored JSON document replaced by garbage: nothing that is asked or told fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from starlette.routing import Route

from bitbudget.app.auth.principal import Scope
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.measurement_file import file_bytes
from bitbudget.app.dashboard.router import router as pages
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.migrate import upgrade
from bitbudget.app.storage.schema import Base
from tests.support.http import FakeClock, FakeWorker, Server, bearer, opened
from tests.support.reports import text_comparison

_OF_CURVES = ("measurements", "tensors")
_LEFT_OUT = re.compile(r"{|^/(docs|static|livez|readyz|metrics)|^/(?!v1/).*\.(json|csv)$")
"""Addresses of other rows, of no rows, and the twins of pages: they show what the page does."""
_NEVER_SHOWN = ("api_keys", "leases")
_GARBAGE = ("not json", "null", "[]", "{}")
_PROBLEM = {"type": "urn:x", "title": "x", "status": 422, "detail": "x"}
_FOLLOWUPS: tuple[tuple[JsonObject, JsonObject], ...] = (
    (
        {"kind": "compare-text", "prompt": "Once", "tokens": 8},
        {"result": text_comparison("Once").model_dump(mode="json")},
    ),
    ({"kind": "publish", "repository": "me/tiny"}, {"problem": _PROBLEM}),
)
_DOCUMENTS = [
    column
    for table in Base.metadata.sorted_tables
    for column in table.columns
    if isinstance(column.type, sa.JSON)
]


@dataclass(frozen=True)
class Served:
    """A server with a row in every table, and what can be read of them.

    `addresses` are those of the API and the pages, each with the words of the queries that its
    answer needs.
    """

    server: Server
    job_id: str
    addresses: dict[str, set[str]]

    def reading(self, table: str) -> list[str]:
        """Return the addresses whose answer needs this table."""
        return [address for address, words in self.addresses.items() if table in words]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, measurement: Measurement) -> Iterator[Served]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), sweep_seconds=3600)
    database = Database(settings.resolved_database_url)
    upgrade(database)
    database.dispose()
    app = create_app(settings, clock=FakeClock())
    with opened(app, raise_server_exceptions=False) as http:
        server = Server(http, app.state.services, FakeClock())
        job_id = _filled(server, measurement)
        names = {
            "{job_id}": job_id,
            "{measurement_id}": measurement.key,
            "{digest}": measurement.model.digest,
            "{name}": "frontier",
        }
        paths = [path for path, ways in app.openapi()["paths"].items() if "get" in ways]
        paths += [each.path for each in pages.routes if isinstance(each, Route)]
        addresses = {_filled_in(path, names) for path in paths}
        asked = sorted(each for each in addresses if not _LEFT_OUT.search(each))
        asked.append(f"/compare?jobs={job_id}")
        yield Served(server, job_id, {each: _words(server, each) for each in asked})


def _words(server: Server, address: str) -> set[str]:
    """Return the words of the queries that are made for an answer."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    _forget(server)
    engine = server.services.database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    assert server.http.get(address).status_code < 500, address
    sa.event.remove(engine, "before_cursor_execute", note)
    return set(re.findall(r"\w+", " ".join(said)))


def _filled_in(path: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        path = path.replace(name, value)
    return path


def _filled(server: Server, measurement: Measurement) -> str:
    """Put a row into every table; return the job that they are of."""
    server.services.keys.create("laptop", [Scope.JOBS_READ])
    job = server.submit(budget=300_000, deliver="checkpoint")
    worker = server.worker(publishes_to="me")
    assert worker.claim() is not None
    worker.renew({"step": "measure", "done": 5, "total": 10}, log=[{"number": 1, "detail": "x"}])
    worker.do(measurement)
    for asked, end in _FOLLOWUPS:
        server.http.post(f"/v1/jobs/{job['id']}/followups", json=asked).raise_for_status()
        identity = {"worker_id": worker.welcome["worker_id"]}
        token = bearer(worker.welcome["token"])
        grant = server.http.post("/v1/followups", json=identity, headers=token).json()
        address = f"/v1/followups/{grant['followup_id']}/result"
        server.http.put(address, json=identity | end, headers=token).raise_for_status()
    server.submit(model="org/other")
    assert worker.claim() is not None
    worker.finish("failed", problem=_PROBLEM)
    return str(job["id"])


@contextmanager
def _replaced(server: Server, document: sa.Column[object], garbage: str) -> Iterator[None]:
    """Have garbage in each of these documents for a while, and nothing remembered."""
    table, text = document.table, sa.type_coerce(document, sa.Text)
    keys = list(table.primary_key.columns)
    with server.services.database.write() as session:
        kept = session.execute(sa.select(text, *keys).where(document.is_not(None))).all()
        _write(session, document, garbage, document.is_not(None))
    if document.table.name in _OF_CURVES:
        _forget(server)
    try:
        yield
    finally:
        with server.services.database.write() as session:
            for value, *row in kept:
                _write(session, document, value, sa.tuple_(*keys) == sa.tuple_(*row))
        if document.table.name in _OF_CURVES:
            _forget(server)


def _write(
    session: Session, document: sa.Column[object], text: str, where: sa.ColumnElement[bool]
) -> None:
    value = sa.literal(text, sa.Text)
    session.execute(sa.update(document.table).where(where).values({document.name: value}))


def _forget(server: Server) -> None:
    with server.services.database.read() as session:
        for key in session.execute(sa.text("SELECT id FROM measurements")).scalars():
            server.services.measurements.library.forget(key)


def test_there_is_a_row_of_every_document(served: Served) -> None:
    assert len(served.addresses) > 20
    with served.server.services.database.read() as session:
        for document in _DOCUMENTS:
            assert session.execute(sa.select(sa.func.count(document))).scalar_one(), document
            table = document.table.name
            assert served.reading(table) or table in _NEVER_SHOWN, document


@pytest.mark.parametrize("document", _DOCUMENTS, ids=str)
def test_garbage_in_a_stored_document_takes_no_page_down(
    served: Served, document: sa.Column[object]
) -> None:
    asked = served.reading(document.table.name)
    for garbage in _GARBAGE:
        with _replaced(served.server, document, garbage):
            for address in asked:
                answer = served.server.http.get(address)
                assert answer.status_code < 500, (address, garbage, answer.text)


@pytest.fixture
def at_work(served: Served) -> FakeWorker:
    """A worker with a job that it told of."""
    job = served.server.submit(model="org/third", deliver="checkpoint")
    worker = served.server.worker("at work", publishes_to="me")
    lease = worker.claim()
    assert lease is not None
    assert lease["job_id"] == job["id"]
    worker.renew({"step": "measure", "done": 5, "total": 10}, log=[{"number": 1, "detail": "x"}])
    return worker


@pytest.mark.parametrize("garbage", ["not json", "{}"])
@pytest.mark.parametrize("document", _DOCUMENTS, ids=str)
def test_garbage_in_a_stored_document_stops_nobody_who_writes(
    served: Served,
    at_work: FakeWorker,
    document: sa.Column[object],
    garbage: str,
    measurement: Measurement,
) -> None:
    server, http = served.server, served.server.http
    job = f"/v1/jobs/{served.job_id}"
    key = server.services.keys.create("phone", [Scope.JOBS_READ])
    with _replaced(server, document, garbage):
        answers = [
            http.get("/v1/jobs", headers=bearer(key.token)),
            at_work.renew({"step": "measure", "done": 6, "total": 10}),
            at_work.renew({"step": "fetch", "done": 6, "total": 10}),
            at_work.upload("measurement.json", measurement.to_json()),
            at_work.finish("crashed", problem=_PROBLEM),
            http.patch(job, json={"tags": [garbage.strip("{}") or "none"]}),
            http.post("/v1/jobs", json={"model": "org/model", "budget": 300_000}),
            http.post("/v1/measurements", content=file_bytes(measurement)),
            http.post(f"{job}/followups", json=_FOLLOWUPS[0][0]),
            http.post(f"{job}/cancel"),
        ]
        worker = server.worker("machine", publishes_to="me")
        identity = {"worker_id": worker.welcome["worker_id"]}
        token = bearer(worker.welcome["token"])
        answers.append(http.post("/v1/followups", json=identity, headers=token))
        while worker.claim() is not None:
            answers.append(worker.finish("failed", problem=_PROBLEM))
        server.services.leases.sweep()
    for number, answer in enumerate(answers):
        assert answer.status_code < 500, (number, answer.text)


def test_a_measurement_that_cannot_be_read_is_shown_as_such(
    served: Served, measurement: Measurement
) -> None:
    server, job = served.server, f"/jobs/{served.job_id}"
    with _replaced(server, Base.metadata.tables["measurements"].c.head, "not json"):
        (model,) = server.http.get("/v1/models").json()["items"]
        assert model["unreadable"] == [measurement.key]
        assert "not readable by this version" in server.http.get("/models").text
        assert "not readable by this version of the server: measurement" in (
            server.http.get(job).text
        )
        assert server.http.get(f"/v1/measurements/{measurement.key}").status_code == 404
