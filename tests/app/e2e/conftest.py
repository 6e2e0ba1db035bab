"""Real processes: a server on a free port, a worker for it, Chromium to look at it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

_END_SECONDS = 30
_SETTINGS = {"BITBUDGET_LOG_LEVEL": "warning", "BITBUDGET_RENEW_SECONDS": "0.1"}
_SHOWN_MILLISECONDS = 30_000  # a machine that does other things draws a plot in ten seconds
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-background-networking")


@contextmanager
def _process(*arguments: str, home: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "BITBUDGET_HOME": str(home), **_SETTINGS}
    command = [sys.executable, "-m", *arguments]
    with (
        log.open("a") as stream,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of one server."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """A real server, as `bitbudget serve` runs it."""
    log = home / "server.log"
    arguments = ("bitbudget.app.cli", "serve", "--port", "0", "--json")
    with _process(*arguments, home=home, log=log) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, log.read_text()
        yield json.loads(line)["address"]


@pytest.fixture
def worker(address: str, home: Path) -> Iterator[None]:
    """A real worker process, which ends with the test."""
    arguments = ("bitbudget.app.cli", "worker", "--server", address, "--name", "bench")
    with _process(*arguments, home=home, log=home / "worker.log"):
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, which talks to nobody on its own."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium: apt-get install chromium")
    expect.set_options(timeout=_SHOWN_MILLISECONDS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield opened
        opened.close()
