from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from bitbudget.app.auth.principal import Scope
from bitbudget.app.auth.service import KeyService
from bitbudget.app.client.client import Client
from bitbudget.app.client.transport import ServerProblemError, ServerUnreachableError
from bitbudget.app.contract.events import Problem, Progress
from bitbudget.app.contract.leases import (
    Capabilities,
    LeaseGrant,
    LeaseOutcome,
    LeaseResult,
    WorkerRegistration,
)
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.errors import InfeasibleBudgetError, LostLeaseError, NotFoundError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest, JobRequest
from bitbudget.app.http.errors import UnsafeBindError
from bitbudget.app.jobs.schemas import JobEvent
from bitbudget.app.measurements.solving import solve
from bitbudget.app.server.serve import prepare
from bitbudget.app.server.services import Services
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import utc_now
from tests.support.live import LiveServer, live_server, start_server
from tests.support.ports import free_port

pytestmark = pytest.mark.e2e
CAPABILITIES = Capabilities(chip="test", memory_bytes=2**34, backend="cpu", mlx_version="0.32.4")
REQUEST = JobRequest(model="org/model", budget="1GiB")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server for the tests that leave it running."""
    with live_server(tmp_path_factory.mktemp("home"), heartbeat_seconds="0.2") as server:
        yield server


def claim(client: Client) -> LeaseGrant:
    welcome = client.register(WorkerRegistration(name="machine", capabilities=CAPABILITIES))
    lease = client.claim(welcome)
    assert lease is not None
    return lease


def finish(client: Client, lease: LeaseGrant, measurement: Measurement) -> bytes:
    data = solve(measurement, lease.request).data
    client.put_artifact(lease, "measurement.json", measurement.to_json())
    client.put_artifact(lease, "manifest.json", data)
    client.finish(lease, LeaseResult(attempt=lease.attempt, outcome=LeaseOutcome.SUCCEEDED))
    return data


def test_a_job_from_submission_to_manifest(shared: LiveServer, measurement: Measurement) -> None:
    with Client(shared.url, token=shared.token) as client:
        job = client.submit(REQUEST)
        events: list[JobEvent] = []
        watcher = threading.Thread(target=lambda: events.extend(client.events(job.id)))
        watcher.start()
        lease = claim(client)
        status = client.renew(lease, Progress(step=Step.MEASURE, done=1, total=2))
        assert not status.cancel
        data = finish(client, lease, measurement)
        watcher.join(20)
        assert not watcher.is_alive()
        assert client.manifest(job.id) == data
        kinds = [str(event.kind) for event in events]
        ended = ["artifact", "artifact", "answered", "succeeded"]
        assert kinds == ["queued", "started", "progress", *ended]
        assert [event.id for event in events] == sorted({event.id for event in events})
        assert client.report(job.id).allocation is not None
        assert job.id in [found.id for found in client.jobs()]
        assert [model.names for model in client.models()] == [["org/model"]]
        assert len(list(client.tensors(measurement.key))) == len(measurement.curves)
        smallest = client.frontier(measurement.key).smallest_bytes
        assert client.allocate(measurement.key, JobRequest(model="x", budget=smallest))
        assert client.measurement(measurement.key).minimum_bytes <= smallest
        assert "machine" in [worker.name for worker in client.workers()]


def test_events_and_leases_outlive_the_server(tmp_path: Path, measurement: Measurement) -> None:
    port = str(free_port())
    first = start_server(tmp_path, port=port)
    client = Client(first.url, token=first.token)
    try:
        job = client.submit(REQUEST)
        events = client.events(job.id)
        assert next(events).kind == "queued"
        lease = claim(client)
        first.kill()
        with live_server(tmp_path, port=port):
            assert client.job(job.id).status == "running"
            finish(client, lease, measurement)
            rest = [str(event.kind) for event in events]
        assert rest == ["started", "artifact", "artifact", "answered", "succeeded"]
    finally:
        client.close()
        if first.process.poll() is None:
            first.kill()


def test_the_stream_is_server_sent_events(shared: LiveServer) -> None:
    with Client(shared.url, token=shared.token) as client:
        job = client.submit(JobRequest(model="org/other", budget="1GiB"))
        url = f"{shared.url}/v1/jobs/{job.id}/events"
        with httpx2.stream("GET", url, headers=shared.headers, timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            assert [next(lines).startswith("retry: "), next(lines)] == [True, ""]
            event = dict(next(lines).split(": ", 1) for _ in range(3))
            number = int(event["id"])
            assert event["event"] == "queued"
            assert JobEvent.model_validate_json(event["data"]).id == number
            assert next(lines) == ""
            assert next(lines).startswith(":")
        client.cancel(job.id)
        again = httpx2.get(url, headers={**shared.headers, "Last-Event-ID": str(number)})
        assert "event: cancelled" in again.text
        assert "event: queued" not in again.text
        last = int(again.text.rsplit("id: ", 1)[1].split("\n", 1)[0])
        assert (
            httpx2.get(url, headers={**shared.headers, "Last-Event-ID": str(last)}).status_code
            == 204
        )
        assert httpx2.get(url, headers=shared.headers, params={"after": last}).status_code == 204
        assert httpx2.get(url, headers={**shared.headers, "Last-Event-ID": "x"}).status_code == 422


def test_open_streams_end_with_the_server_and_not_after_its_patience(tmp_path: Path) -> None:
    with (
        live_server(tmp_path, shutdown_seconds="600") as server,
        Client(server.url, token=server.token) as client,
    ):
        job = client.submit(REQUEST)
        url = f"{server.url}/v1/jobs/{job.id}/events"
        with (
            httpx2.Client(headers=server.headers, timeout=20) as http,
            http.stream("GET", url) as answer,
        ):
            lines = answer.iter_lines()
            assert next(lines).startswith("retry")
            server.terminate()


def test_problems_come_back_as_errors(shared: LiveServer, measurement: Measurement) -> None:
    with Client(shared.url, token=shared.token) as client:
        job = client.submit(JobRequest(model="org/broken", budget="1GiB"))
        lease = claim(client)
        problem = Problem(type="urn:x", title="Bad", status=422, detail="truncated")
        result = LeaseResult(attempt=1, outcome=LeaseOutcome.FAILED, problem=problem)
        client.finish(lease, result)
        client.finish(lease, result)
        failed = client.job(job.id)
        assert failed.problem == problem
        with pytest.raises(LostLeaseError):
            client.renew(lease)
        with pytest.raises(NotFoundError, match="no job"):
            client.job("0" * 32)
        with pytest.raises(InfeasibleBudgetError) as caught:
            client.allocate(measurement.key, AllocationRequest(budget=1))
        assert caught.value.minimum_bytes > 1
        with pytest.raises(ServerProblemError, match="has no manifest"):
            client.manifest(job.id)


def test_a_server_that_is_not_there_is_named() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachableError, match=":9"):
        client.register(WorkerRegistration(name="machine", capabilities=CAPABILITIES))


def test_another_address_than_loopback_needs_a_key_first(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, host="0.0.0.0")  # noqa: S104 - the point of the test
    with pytest.raises(UnsafeBindError, match="bitbudget key create"):
        prepare(settings)
    database = Database(settings.resolved_database_url)
    KeyService(database, utc_now).create("laptop", [Scope.ADMIN])
    database.dispose()
    services: Services = prepare(settings).state.services
    services.database.dispose()
