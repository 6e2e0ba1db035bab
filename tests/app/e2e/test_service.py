from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import httpx2
import pytest

from bitbudget.app.client.client import Client
from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Sensitivity
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.jobs.schemas import Job
from bitbudget.app.jobs.status import EventKind
from tests.support.speed import least_seconds

pytestmark = pytest.mark.e2e
DEADLINE_SECONDS = 600


def request(model: Path, budget: str) -> JobRequest:
    """A job that needs no statistics, so that the service is what takes the time."""
    return JobRequest(model=str(model), budget=budget, sensitivity=Sensitivity.WEIGHTS)


def polled(client: Client, job: Job) -> Job:
    ends = time.monotonic() + DEADLINE_SECONDS
    while not job.status.is_final:
        assert time.monotonic() < ends, job
        time.sleep(0.2)
        job = client.job(job.id)
    return job


@pytest.mark.usefixtures("worker")
def test_post_poll_stream_manifest_and_a_second_budget_without_a_worker(
    address: str, home: Path, sample_model: Path
) -> None:
    token = HomeToken(home).known()
    with Client(address, token=token) as client:
        first = polled(client, client.submit(request(sample_model, "4MB")))
        assert first.problem is None
        assert first.answer is not None
        kinds = [event.kind for event in client.events(first.id)]
        assert kinds[0] is EventKind.QUEUED
        assert kinds[-1] is EventKind.SUCCEEDED
        assert EventKind.PROGRESS in kinds

        manifest = Manifest.from_bytes(client.manifest(first.id))
        assert manifest.file_bytes <= manifest.budget_bytes == 4_000_000
        mine = {"Authorization": f"Bearer {token}"}
        url = f"{address}/v1/jobs/{first.id}/manifest"
        answer = httpx2.get(url, headers=mine)
        assert answer.headers["ETag"] == f'"{sha256_of(answer.content)}"'
        again = httpx2.get(url, headers={**mine, "If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_a_second_budget_needs_no_worker_and_no_time(
    address: str, home: Path, sample_model: Path
) -> None:
    with Client(address, token=HomeToken(home).known()) as client:
        second = client.submit(request(sample_model, "3.5MB"))
        assert second.status == "succeeded"
        assert second.worker is None
        assert second.answer is not None
        assert second.answer.file_bytes <= 3_500_000
        others = [
            partial(client.submit, request(sample_model, f"3.{hundredths}MB"))
            for hundredths in range(51, 56)
        ]
        assert least_seconds(others, 1.0) < 1.0
