"""A real worker tries and publishes the checkpoint that it made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitbudget.app.client.client import Client
from bitbudget.app.contract.followups import CompareText, Publish
from bitbudget.app.contract.reports import UploadResult
from bitbudget.app.contract.texts import TextComparison
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.followups.schemas import Followup, FollowupStatus
from bitbudget.app.jobs.status import JobStatus
from tests.support.child import REPOSITORY
from tests.support.live import live_server
from tests.workers.hub.hub_server import HubServer

pytestmark = pytest.mark.e2e
MOST_SECONDS = 600
QUICK = {"poll_seconds": "0.1", "renew_seconds": "0.3", "lease_seconds": "10"}


def done(client: Client, asked: Followup) -> Followup:
    end = time.monotonic() + MOST_SECONDS
    while time.monotonic() < end:
        (found,) = [each for each in client.followups(asked.job_id) if each.id == asked.id]
        if found.status.is_final:
            return found
        time.sleep(0.1)
    pytest.fail(f"still {found}")


def test_a_finished_checkpoint_is_tried_and_published(sample_model: Path, tmp_path: Path) -> None:
    home = tmp_path / "worker"
    command = [sys.executable, "-m", "bitbudget.workers.agent", "--home", str(home)]
    request = JobRequest(
        model=str(sample_model),
        budget="3MB",
        deliver="checkpoint",
        effort="quick",
        encoder="minmax",
        sensitivity="weights",
    )
    with (
        live_server(tmp_path / "server", **QUICK) as server,
        HubServer() as hub,
        Client(server.url, token=server.token) as client,
    ):
        environment = {
            **os.environ,
            "BITBUDGET_TOKEN": server.token,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "hf_mine",
            "HF_HUB_DISABLE_XET": "1",
        }
        job = client.submit(request)
        subprocess.run(
            [*command, "--server", server.url, "--name", "studio", "--idle-exit"],
            cwd=REPOSITORY,
            env=environment,
            check=True,
        )
        assert client.job(job.id).status is JobStatus.SUCCEEDED, client.job(job.id)
        tried = client.ask_followup(
            job.id, CompareText(kind="compare-text", prompt="Once upon a time", tokens=8)
        )
        assert tried.status is FollowupStatus.QUEUED
        worker = subprocess.Popen(
            [*command, "--server", server.url, "--name", "studio", "--publish-to", "me"],
            cwd=REPOSITORY,
            env=environment,
        )
        try:
            found = done(client, tried).result
            assert isinstance(found, TextComparison)
            assert found.original is not None
            assert found.result.weight_bytes < 3_000_000 < found.original.weight_bytes

            published = done(
                client, client.ask_followup(job.id, Publish(kind="publish", repository="me/tiny"))
            )
            assert isinstance(published.result, UploadResult), published.problem
            files = hub.repositories["me/tiny"].commits[published.result.revision]
            manifest = json.loads(files["manifest.json"].content)
            assert manifest["file_bytes"] == found.result.weight_bytes
            assert b"## Measured" in files["README.md"].content
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
