"""Jobs followed from the command line: what is said where nothing moves."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx2
import pytest

from bitbudget.app.contract.home_token import HomeToken
from bitbudget.samples import sample_model
from tests.support.commands import interruptible

pytestmark = pytest.mark.e2e


def _bitbudget(*words: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        interruptible(*words),
        env={**os.environ, "BITBUDGET_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_job_without_a_worker_says_so_and_an_interrupt_says_how_to_come_back(
    address: str, home: Path
) -> None:
    words = ("submit", str(sample_model()), "--budget", "3MB", "--wait", "--server", address)
    watching = _bitbudget(*words, home=home)
    assert watching.stderr is not None
    job = watching.stderr.readline().removeprefix("job ").strip()
    queued = watching.stderr.readline()
    assert "next in the queue; no worker is online" in queued
    assert f"bitbudget worker --server {address}" in queued
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert f"come back: bitbudget watch {job} --server {address}" in said

    listed, _ = _bitbudget("jobs", "--server", address, home=home).communicate(timeout=30)
    assert job in listed
    stopped, _ = _bitbudget("cancel", job, "--server", address, home=home).communicate(timeout=30)
    assert stopped.strip() == f"{job}: cancelled"
    refused = httpx2.get(f"{address}/v1/jobs/{job}")
    assert (refused.status_code, "BITBUDGET_HOME" in refused.text) == (401, True)
    token = {"Authorization": f"Bearer {HomeToken(home).known()}"}
    state = httpx2.get(f"{address}/v1/jobs/{job}", headers=token).json()["status"]
    assert state == "cancelled"


def test_a_server_that_is_down_is_told_at_once(tmp_path: Path) -> None:
    watching = _bitbudget("watch", "x", "--server", "http://127.0.0.1:9", home=tmp_path)
    assert watching.stderr is not None
    first = watching.stderr.readline()
    first = watching.stderr.readline() if first.startswith("job") else first
    assert "http://127.0.0.1:9 does not answer" in first
    assert watching.poll() is None, "told while it goes on trying, and not once it gives up"
    watching.kill()
    watching.communicate()
