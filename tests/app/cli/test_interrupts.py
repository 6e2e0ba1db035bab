"""An interrupted command says what is kept and how it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bitbudget.app.contract.steps import Step
from tests.support.commands import interruptible
from tests.support.live import server_environment

MOST_SECONDS = 300


def interrupted(home: Path, *words: str, until: str) -> tuple[int, str]:
    """Return exit status and standard error of a command interrupted once it said `until`."""
    log = home / "stderr"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            interruptible(*words),
            env=server_environment(home, {"port": "0"}),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + MOST_SECONDS
        while until not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(60), log.read_text()
    finally:
        process.kill()
        process.wait()


def test_the_server_says_where_its_jobs_are(tmp_path: Path) -> None:
    status, told = interrupted(tmp_path, "serve", until="listens on")
    assert status == 0
    assert f"kept in {tmp_path}" in told.replace("\n", " ")


@pytest.mark.e2e
def test_a_run_says_that_the_same_command_goes_on(tmp_path: Path, sample_model: Path) -> None:
    """Interrupted after the first steps, while the model is measured."""
    output = tmp_path / "checkpoint"
    words = ("run", str(sample_model), "--budget", "1GB", "--output", str(output))
    status, told = interrupted(tmp_path, *words, until=Step.INVENTORY)
    assert status == 130
    assert f"kept in {tmp_path}" in told.replace("\n", " ")
    assert "the same command goes on" in told
