"""A worker that is told to end leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e


def test_terminating_the_command_ends_its_agent(address: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bitbudget.app.cli", "worker", "--server", address]
    environment = {**os.environ, "BITBUDGET_HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment) as worker:
        agents = _children(worker.pid)
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
    _, alive = psutil.wait_procs(agents, timeout=10)
    assert alive == []


def _children(pid: int) -> list[psutil.Process]:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        if found:
            time.sleep(0.5)
            return found
        time.sleep(0.05)
    raise TimeoutError("the command started no agent")
