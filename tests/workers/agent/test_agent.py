"""A real worker process against a real server process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bitbudget.app.client.client import Client
from bitbudget.app.contract.steps import Step
from bitbudget.app.contract.tasks import JobTask
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.requests import Deliver, JobRequest
from bitbudget.app.jobs.schemas import Job
from bitbudget.app.jobs.status import JobStatus
from tests.support.child import REPOSITORY, run_child
from tests.support.live import LiveServer, live_server
from tests.workers.child.test_child import job as job_task
from tests.workers.models.tiny import write_tiny

pytestmark = pytest.mark.e2e
BITBUDGET = (sys.executable, "-m", "bitbudget.app.cli")
MOST_SECONDS = 600
"""Far longer than a job takes: one that stands still is not waited for for ever."""
QUICK = {
    "poll_seconds": "0.1",
    "renew_seconds": "0.3",
    "lease_seconds": "3",
    "sweep_seconds": "0.3",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny", "qwen3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("server"), **QUICK) as server:
        yield server


@contextmanager
def worker(server: LiveServer, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    home.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "bitbudget.workers.agent",
        "--server",
        server.url,
        "--home",
        str(home),
    ]
    environment = {**os.environ, "BITBUDGET_TOKEN": server.token}
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def wait_for(client: Client, job_id: str, is_so: Callable[[Job], bool]) -> Job:
    end = time.monotonic() + MOST_SECONDS
    while time.monotonic() < end:
        job = client.job(job_id)
        if is_so(job):
            return job
        time.sleep(0.05)
    pytest.fail(f"still {job}")


def is_over(job: Job) -> bool:
    return job.finished_at is not None


def is_running(job: Job) -> bool:
    return job.status is JobStatus.RUNNING


def has_reached(step: Step) -> Callable[[Job], bool]:
    later = list(Step)[list(Step).index(step) :]
    return lambda job: job.progress is not None and job.progress.step in later


def request(model: Path, budget: int, **fields: object) -> JobRequest:
    return JobRequest.model_validate({"model": str(model), "budget": budget, **fields})


def test_a_worker_killed_twice_changes_nothing(
    server: LiveServer, tiny: Path, tmp_path: Path
) -> None:
    calm = run_child(job_task(tmp_path / "calm", tiny, budget=90_000, encoder="careful"))
    with Client(server.url, token=server.token) as client:
        submitted = client.submit(
            request(tiny, 90_000, deliver=Deliver.CHECKPOINT, encoder="careful")
        )
        for step in (Step.MEASURE, Step.EVALUATE):
            with worker(server, tmp_path / "home") as process:
                wait_for(client, submitted.id, has_reached(step))
                children = psutil.Process(process.pid).children()
                process.kill()
                process.wait()
                psutil.wait_procs(children, timeout=30)
                assert not any(child.is_running() for child in children)
        with worker(server, tmp_path / "home"):
            job = wait_for(client, submitted.id, is_over)
        assert job.status is JobStatus.SUCCEEDED, job
        assert job.attempt == 3
        assert client.manifest(job.id) == Path(calm.result["manifest"]).read_bytes()
        report = client.report(job.id)
        assert report.evaluation is not None

    with Client(server.url, token=server.token) as client:  # of whom no worker is left
        second = client.submit(request(tiny, 120_000, encoder="careful"))
    assert (second.status, second.worker) == (JobStatus.SUCCEEDED, None)


def test_a_cancelled_job_stops_its_child(server: LiveServer, tiny: Path, tmp_path: Path) -> None:
    with (
        Client(server.url, token=server.token) as client,
        worker(server, tmp_path / "home") as process,
    ):
        submitted = client.submit(
            request(tiny, 90_000, deliver=Deliver.CHECKPOINT, encoder="minmax")
        )
        wait_for(client, submitted.id, has_reached(Step.MEASURE))
        client.cancel(submitted.id)
        assert wait_for(client, submitted.id, is_over).status is JobStatus.CANCELLED
        end = time.monotonic() + 30
        while psutil.Process(process.pid).children() and time.monotonic() < end:
            time.sleep(0.05)
        assert psutil.Process(process.pid).children() == []
        assert process.poll() is None


def test_a_first_answer_outlives_its_worker_and_its_job(server: LiveServer, tmp_path: Path) -> None:
    """Killed while it is refined, a job keeps revision 1 and ends as an undisturbed one does."""

    def has_answer(job: Job) -> bool:
        return job.answer is not None

    def kinds(job: Job) -> list[str]:
        return [event.kind.value for event in client.events(job.id)]

    models = [write_tiny(tmp_path / name, "qwen3") for name in ("one", "other")]
    wanted, other = (request(model, 90_000, encoder="minmax", preview=True) for model in models)
    calm = run_child(JobTask(home=str(tmp_path / "calm"), request=wanted))
    with Client(server.url, token=server.token) as client:
        submitted = client.submit(wanted)
        with worker(server, tmp_path / "home") as process:
            running = wait_for(client, submitted.id, has_answer)
            children = psutil.Process(process.pid).children()
            process.kill()
            psutil.wait_procs(children, timeout=30)
        assert running.answer is not None
        assert (running.status, running.answer.revision) == (JobStatus.RUNNING, 1)
        first = client.manifest(submitted.id, revision=1)
        assert Manifest.from_bytes(first).effort is Effort.QUICK
        watching = subprocess.Popen(
            [*BITBUDGET, "watch", submitted.id, "--server", server.url, "--json"],
            cwd=REPOSITORY,
            env={**os.environ, "BITBUDGET_TOKEN": server.token},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with worker(server, tmp_path / "home"):
            job = wait_for(client, submitted.id, is_over)
            out, told = watching.communicate(timeout=60)
        assert job.status is JobStatus.SUCCEEDED, job
        assert [answer.revision for answer in job.revisions] == [1, 2]
        assert client.manifest(job.id) == Path(calm.result["manifest"]).read_bytes()
        assert client.manifest(job.id, revision=1) == first
        assert kinds(job).count("answered") == 2
        assert "answer 1 (effort quick): " in told
        assert f"/v1/jobs/{job.id}/manifest?revision=1" in told
        assert "answer 2 (effort standard): " in told
        assert json.loads(out)["answer"]["revision"] == 2

        stopped = client.submit(other)
        with worker(server, tmp_path / "other-home"):
            wait_for(client, stopped.id, has_answer)
            client.cancel(stopped.id)
            ended = wait_for(client, stopped.id, is_over)
        assert ended.status is JobStatus.CANCELLED
        assert ended.answer is not None
        assert Manifest.from_bytes(client.manifest(stopped.id)).effort is Effort.QUICK


def test_sigterm_hands_the_job_back(server: LiveServer, tiny: Path, tmp_path: Path) -> None:
    with Client(server.url, token=server.token) as client:
        submitted = client.submit(request(tiny, 80_000, seed=3, deliver=Deliver.CHECKPOINT))
        with worker(server, tmp_path / "home") as process:
            wait_for(client, submitted.id, is_running)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert client.job(submitted.id).status is JobStatus.QUEUED
        client.cancel(submitted.id)


def test_a_faulty_input_fails_for_good(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"x")
    with Client(server.url, token=server.token) as client, worker(server, tmp_path / "home"):
        submitted = client.submit(request(tmp_path / "model", 90_000))
        job = wait_for(client, submitted.id, is_over)
    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert job.problem is not None
    assert "config.json" in job.problem.detail
