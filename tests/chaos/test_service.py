"""Jobs end right whatever is killed: server, worker or child, at random moments.

`BITBUDGET_CHAOS_JOBS=200 pytest -m chaos tests/chaos` runs the whole of it; without the variable a
few jobs are run. `BITBUDGET_CHAOS_SEED` repeats a run's choices.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from app.client import Client
from app.core.errors import BitbudgetError
from app.core.requests import JobRequest
from app.jobs.schemas import Job
from app.jobs.status import EventKind, JobStatus
from app.leases.schemas import JobTask
from tests.chaos.fleet import LEASE_SECONDS, Fleet
from tests.chaos.models import make_model
from workers.stages.tasks import run_task

pytestmark = pytest.mark.chaos

JOBS = int(os.environ.get("BITBUDGET_CHAOS_JOBS", "8"))
SEED = int(os.environ.get("BITBUDGET_CHAOS_SEED", "7"))
SECONDS_PER_JOB = 60.0
BUDGET_BYTES = 400_000


def _requests(folder: Path, tokenizer: Path) -> list[JobRequest]:
    models = [make_model(folder / f"model-{index}", index, tokenizer) for index in range(JOBS)]
    return [
        JobRequest(model=str(model), budget=BUDGET_BYTES, sensitivity="weights", seed=index)
        for index, model in enumerate(models)
    ]


def _undisturbed(requests: list[JobRequest], home: Path) -> list[bytes]:
    """The manifests as one process makes them that nobody disturbs."""
    manifests = []
    for request in requests:
        result = run_task(JobTask(home=str(home), request=request), lambda _: None)
        manifests.append(Path(result["manifest"]).read_bytes())
    return manifests


class _Vandal:
    """Kills what `chooser` picks, but never so that a job loses its third and last attempt."""

    def __init__(self, fleet: Fleet, chooser: random.Random) -> None:
        self._fleet = fleet
        self._chooser = chooser
        self.killed: Counter[str] = Counter()

    def strike(self, unfinished: list[Job]) -> None:
        """Kill something, if no job is in danger of being given up."""
        if any(job.attempt + (job.status == JobStatus.QUEUED) > 2 for job in unfinished):
            return
        what = self._chooser.choices(["server", "worker", "child"], weights=[2, 3, 5])[0]
        if what == "server":
            self._fleet.kill("server")
            time.sleep(self._chooser.uniform(0, 0.5))
            self._fleet.start("server")
            self._fleet.wait_until_ready()
        elif what == "worker":
            self._fleet.restart(self._chooser.choice(self._fleet.names))
        elif not self._fleet.kill_child(self._chooser.choice(self._fleet.names)):
            return
        self.killed[what] += 1


def _unfinished(client: Client) -> list[Job]:
    return [job for job in client.jobs() if not job.status.is_final]


def _submit(client: Client, request: JobRequest, key: str) -> Job:
    """Submit twice with one key, as a client does that got no answer to its first try."""
    first = client.submit(request, idempotency_key=key)
    assert client.submit(request, idempotency_key=key).id == first.id
    return first


def test_every_job_ends_right_whatever_is_killed(tmp_path: Path, sample_model: Path) -> None:
    chooser = random.Random(SEED)  # noqa: S311 - the same kills for the same seed
    requests = _requests(tmp_path, sample_model)
    expected = _undisturbed(requests, tmp_path / "undisturbed")
    with Fleet(tmp_path, workers=2) as fleet, fleet.client() as client:
        vandal = _Vandal(fleet, chooser)
        jobs = [
            _submit(client, request, f"chaos-{index:06d}-0123456789")
            for index, request in enumerate(requests)
        ]
        end = time.monotonic() + SECONDS_PER_JOB * (JOBS + 1)
        while unfinished := _unfinished(client):
            assert time.monotonic() < end, f"{len(unfinished)} jobs are not finished"
            time.sleep(chooser.expovariate(1 / LEASE_SECONDS))
            with contextlib.suppress(BitbudgetError):
                vandal.strike(_unfinished(client))
        assert [name for name in (*fleet.names, "server") if fleet.has_ended(name)] == []
        _check(client, jobs, expected)
    assert sum(vandal.killed.values()) >= JOBS // 4, vandal.killed


def _check(client: Client, jobs: list[Job], expected: list[bytes]) -> None:
    assert sorted(job.id for job in client.jobs()) == sorted(job.id for job in jobs)
    for job, manifest in zip(jobs, expected, strict=True):
        assert client.job(job.id).status == JobStatus.SUCCEEDED
        assert client.manifest(job.id) == manifest
        kinds = Counter(event.kind for event in client.events(job.id))
        assert kinds[EventKind.SUCCEEDED] == 1
        assert kinds[EventKind.QUEUED] == 1
        assert kinds[EventKind.FAILED] == kinds[EventKind.CANCELLED] == 0
        assert kinds[EventKind.STARTED] == kinds[EventKind.REQUEUED] + 1
