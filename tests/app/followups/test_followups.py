"""A checkpoint is tried or published by the worker that holds it, and by no other."""

from __future__ import annotations

from typing import Any

import pytest

from bitbudget.app.auth.principal import Principal, Scope
from bitbudget.app.contract.followups import CompareText
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.http.errors import ForbiddenError
from tests.support.http import FakeWorker, Server, bearer
from tests.support.reports import text_comparison

ASKED = {"kind": "compare-text", "prompt": "Once", "tokens": 8}
PUBLISH = {"kind": "publish", "repository": "me/tiny"}


def finished(server: Server, measurement: Measurement, **worker: Any) -> tuple[str, FakeWorker]:
    """Return a job whose checkpoint a worker holds, and that worker."""
    job = server.submit(budget="200kB", deliver="checkpoint")
    machine = server.worker(**worker)
    assert machine.claim() is not None
    machine.do(measurement)
    return job["id"], machine


def ask(server: Server, job_id: str, asked: dict[str, Any], **options: Any) -> Any:
    return server.http.post(f"/v1/jobs/{job_id}/followups", json=asked, **options)


def claim(machine: FakeWorker) -> dict[str, Any] | None:
    answer = machine.server.http.post("/v1/followups", json=_of(machine), headers=_token(machine))
    return answer.json() if answer.status_code == 201 else None


def end(machine: FakeWorker, followup_id: str, **outcome: Any) -> Any:
    return machine.server.http.put(
        f"/v1/followups/{followup_id}/result",
        json=_of(machine) | outcome,
        headers=_token(machine),
    )


def _of(machine: FakeWorker) -> dict[str, str]:
    return {"worker_id": machine.welcome["worker_id"]}


def _token(machine: FakeWorker) -> dict[str, str]:
    return bearer(machine.welcome["token"])


def status_of(server: Server, job_id: str) -> str:
    found = server.http.get(f"/v1/jobs/{job_id}/followups").json()
    return str(found[0]["status"])


def test_the_worker_of_the_job_answers_once(server: Server, measurement: Measurement) -> None:
    job_id, machine = finished(server, measurement)
    other = server.worker("other")
    followup = ask(server, job_id, ASKED).json()
    assert followup["status"] == "queued"
    assert ask(server, job_id, ASKED).status_code == 409  # the last is not over

    assert claim(other) is None
    grant = claim(machine)
    assert grant is not None
    assert grant["asked"] == ASKED
    assert grant["manifest_sha256"] == server.job(job_id)["result"]["sha256"]
    assert claim(machine) is None
    assert status_of(server, job_id) == "running"
    assert end(other, followup["id"], problem=None, result=None).status_code == 422

    result = text_comparison("Once").model_dump(mode="json")
    assert end(other, followup["id"], result=result).status_code == 404
    assert end(machine, followup["id"], result={**result, "prompt": "Twice"}).status_code == 422
    assert end(machine, followup["id"], result=result).status_code == 204
    assert end(machine, followup["id"], result=result).status_code == 409
    (found,) = server.http.get(f"/v1/jobs/{job_id}/followups").json()
    assert (found["status"], found["result"]) == ("done", result)

    again = ask(server, job_id, ASKED | {"prompt": "Another"}).json()
    assert again["id"] != followup["id"]
    assert status_of(server, job_id) == "queued"


def test_a_worker_that_was_started_again_is_known_by_its_name(
    server: Server, measurement: Measurement
) -> None:
    job_id, _ = finished(server, measurement)
    ask(server, job_id, ASKED)
    assert claim(server.worker()) is not None


def test_one_that_nobody_answers_ends_and_says_what_to_do(
    server: Server, measurement: Measurement
) -> None:
    job_id, machine = finished(server, measurement)
    followup = ask(server, job_id, ASKED).json()
    assert claim(machine) is not None
    for _ in range(3):
        server.clock.pass_seconds(50)
        path = f"/v1/followups/{followup['id']}"
        renewed = server.http.put(path, json=_of(machine), headers=_token(machine))
        assert renewed.status_code == 204
    assert status_of(server, job_id) == "running"

    server.clock.pass_seconds(61)

    (found,) = server.http.get(f"/v1/jobs/{job_id}/followups").json()
    assert found["status"] == "failed"
    assert found["problem"]["detail"].endswith("see that it runs, then ask again")
    result = text_comparison("Once").model_dump(mode="json")
    assert end(machine, followup["id"], result=result).status_code == 409
    assert ask(server, job_id, ASKED).status_code == 202


def test_without_a_checkpoint_there_is_nothing_to_try(
    server: Server, measurement: Measurement
) -> None:
    open_job = server.submit()["id"]
    assert ask(server, open_job, ASKED).status_code == 409
    job_id, _ = finished(server, measurement)
    for wrong in (
        ASKED | {"prompt": "x" * 4001},
        ASKED | {"prompt": ""},
        ASKED | {"tokens": 257},
        {"kind": "publish", "repository": "../etc"},
        {"kind": "run", "command": "ls"},
    ):
        assert ask(server, job_id, wrong).status_code == 422
    assert ask(server, "0" * 32, ASKED).status_code == 404


def test_a_worker_publishes_only_where_its_owner_said(
    server: Server, measurement: Measurement
) -> None:
    job_id, _ = finished(server, measurement)
    refused = ask(server, job_id, PUBLISH)
    assert refused.status_code == 409
    assert "--publish-to me" in refused.json()["detail"]

    machine = server.worker(publishes_to="me")  # the same, started again
    assert ask(server, job_id, PUBLISH | {"repository": "you/tiny"}).status_code == 409
    followup = ask(server, job_id, PUBLISH).json()
    grant = claim(machine)
    assert grant is not None
    assert grant["asked"] == PUBLISH | {"private": True}
    uploaded = {"repository": "me/tiny", "revision": "1", "url": "u", "files": 5, "bytes": 9}
    wrong = uploaded | {"repository": "you/tiny"}
    assert end(machine, followup["id"], result=wrong).status_code == 422
    assert end(machine, followup["id"], result=uploaded).status_code == 204


def test_only_the_owner_of_a_job_asks(server: Server, measurement: Measurement) -> None:
    job_id, _ = finished(server, measurement)
    stranger = Principal("another", frozenset({Scope.JOBS_WRITE}))
    asked = CompareText(kind="compare-text", prompt="Once")
    with pytest.raises(ForbiddenError, match="another key"):
        server.services.followups.ask(job_id, asked, stranger)


def test_one_owner_has_a_few_at_once(server: Server, measurement: Measurement) -> None:
    for _ in range(8):
        job_id, _ = finished(server, measurement)
        assert ask(server, job_id, ASKED).status_code == 202
    job_id, _ = finished(server, measurement)
    assert ask(server, job_id, ASKED).status_code == 429
