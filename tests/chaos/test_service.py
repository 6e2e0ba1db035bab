"""Jobs end right whatever breaks: server, worker, child, disk or database, at random moments.

`BITBUDGET_CHAOS_JOBS=200 pytest -m chaos tests/chaos` runs the whole of it; without the variable
twenty jobs are run. `BITBUDGET_CHAOS_SEED` repeats a run's choices. Half of the jobs run on SQLite,
half on PostgreSQL.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from bitbudget.app.client.client import Client
from bitbudget.app.contract.tasks import JobTask
from bitbudget.app.core.errors import BitbudgetError
from bitbudget.app.core.requests import Deliver, JobRequest
from bitbudget.app.jobs.schemas import Job
from bitbudget.app.jobs.status import EventKind, JobStatus
from bitbudget.workers.pipeline.tasks import run_task
from tests.chaos.contents import contents, sizes
from tests.chaos.fleet import LEASE_SECONDS, Fleet
from tests.chaos.models import make_model
from tests.chaos.vandal import Vandal
from tests.support.postgres import Cluster, can_run

pytestmark = pytest.mark.chaos

JOBS = max(2, int(os.environ.get("BITBUDGET_CHAOS_JOBS", "20")) // 2)
SEED = int(os.environ.get("BITBUDGET_CHAOS_SEED", "7"))
SECONDS_PER_JOB = 60.0
BUDGET_BYTES = 400_000
JOBS_PER_STRIKE = 3
"""So many are submitted at first, and once more for each thing that broke."""
Answer = TypeVar("Answer")
_LOG = logging.getLogger(__name__)
CHECKPOINT_EVERY = 10
"""A checkpoint takes four times as long as a manifest."""


@dataclass(frozen=True)
class Case:
    """A request and what comes of it where nothing breaks."""

    request: JobRequest
    manifest: bytes
    checkpoint: Path | None


def _whole(cases: list[Case]) -> dict[str, Path]:
    return {case.checkpoint.name: case.checkpoint for case in cases if case.checkpoint}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, sample_model: Path) -> list[Case]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return [_case(folder, index, sample_model) for index in range(JOBS)]


def _case(folder: Path, index: int, tokenizer: Path) -> Case:
    model = make_model(folder / f"model-{index}", index, tokenizer)
    is_whole = index % CHECKPOINT_EVERY == CHECKPOINT_EVERY // 2
    request = JobRequest(
        model=str(model),
        budget=BUDGET_BYTES,
        sensitivity="weights",
        seed=index,
        deliver=Deliver.CHECKPOINT if is_whole else Deliver.MANIFEST,
    )
    task = JobTask(home=str(folder / "home"), request=request, baseline=is_whole)  # as workers do
    result = run_task(task, lambda _: None).model_dump(mode="json")
    manifest = Path(result["manifest"]).read_bytes()
    return Case(request, manifest, Path(result["checkpoint"]) if is_whole else None)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster | None]:
    if request.param == "sqlite":
        yield None
        return
    if not can_run():
        pytest.skip("no PostgreSQL server: apt-get install postgresql (and a user other than root)")
    with tempfile.TemporaryDirectory(prefix="bitbudget-pg-") as folder:
        Path(folder).chmod(0o755)
        made = Cluster(Path(folder) / "cluster")
        made.start()
        yield made
        made.stop()


def _unfinished(client: Client) -> list[Job]:
    return [job for job in client.jobs() if not job.status.is_final]


def _submit(client: Client, request: JobRequest, key: str) -> Job:
    """Submit twice with one key, as a client does that got no answer to its first try."""
    first = client.submit(request, idempotency_key=key)
    assert client.submit(request, idempotency_key=key).id == first.id
    return first


def test_every_job_ends_right_whatever_breaks(
    tmp_path: Path, cases: list[Case], cluster: Cluster | None
) -> None:
    chooser = random.Random(SEED)  # noqa: S311 - the same choices for the same seed
    url = "" if cluster is None else cluster.url()
    with Fleet(tmp_path, workers=2, database_url=url) as fleet, fleet.client() as client:
        vandal = Vandal(fleet, chooser, cluster)
        jobs: list[Job] = []
        end = time.monotonic() + SECONDS_PER_JOB * (JOBS + 1)
        while (unfinished := _patiently(partial(_unfinished, client))) or len(jobs) < JOBS:
            assert time.monotonic() < end, f"{len(unfinished)} jobs are not finished"
            allowed = JOBS_PER_STRIKE * (1 + sum(vandal.broken.values()))
            for index in range(len(jobs), min(allowed, JOBS)):
                key = f"chaos-{index:06d}-0123456789"
                jobs.append(_patiently(partial(_submit, client, cases[index].request, key)))
            time.sleep(min(LEASE_SECONDS, chooser.expovariate(2 / LEASE_SECONDS)))
            _check_visible(fleet, cases)
            with contextlib.suppress(BitbudgetError):
                vandal.strike(_unfinished(client))
        assert [name for name in (*fleet.names, "server") if fleet.has_ended(name)] == []
        _check_jobs(client, jobs, cases)
        assert _check_visible(fleet, cases) >= _whole(cases).keys()
    _LOG.info("%d jobs, broken: %s", len(jobs), dict(vandal.broken))
    assert sum(vandal.broken.values()) >= JOBS // 4, vandal.broken


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask until the server is there: its database may be starting."""
    end = time.monotonic() + SECONDS_PER_JOB
    while time.monotonic() < end:
        with contextlib.suppress(BitbudgetError):
            return ask()
    return ask()


def _check_visible(fleet: Fleet, cases: list[Case]) -> set[str]:
    """Every checkpoint that can be seen has all its files in their full length; return names.

    Its card grows when it has been evaluated, too.
    """
    expected = _whole(cases)
    seen = set()
    for name in fleet.names:
        for folder in (fleet.home(name) / "checkpoints").glob("[!.]*"):
            if not folder.name.endswith(".partial"):
                found, whole = sizes(folder), sizes(expected[folder.name])
                assert 0 < found.pop("README.md") <= whole.pop("README.md")
                assert found == whole
                seen.add(folder.name)
    return seen


def _check_jobs(client: Client, jobs: list[Job], cases: list[Case]) -> None:
    assert sorted(job.id for job in client.jobs()) == sorted(job.id for job in jobs)
    for job, case in zip(jobs, cases, strict=True):
        ended = client.job(job.id)
        assert ended.status == JobStatus.SUCCEEDED, ended
        assert client.manifest(job.id) == case.manifest
        if case.checkpoint is not None:
            assert ended.result is not None
            assert contents(Path(ended.result.checkpoint or "")) == contents(case.checkpoint)
        kinds = Counter(event.kind for event in client.events(job.id))
        assert kinds[EventKind.SUCCEEDED] == 1
        assert kinds[EventKind.QUEUED] == 1
        assert kinds[EventKind.FAILED] == kinds[EventKind.CANCELLED] == 0
        assert kinds[EventKind.STARTED] == kinds[EventKind.REQUEUED] + 1
