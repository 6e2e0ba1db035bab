"""A real server and real workers as processes, which can be killed and come back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bitbudget.app.client.client import Client
from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.core.errors import BitbudgetError
from tests.chaos.disk import LimitedDisk, MountedDisk, disk
from tests.support.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 4.0
_START_SECONDS = 60.0


class Fleet:
    """A server on one address for its whole life, and `workers` workers with homes of their own."""

    def __init__(self, folder: Path, workers: int, database_url: str = "") -> None:
        self.folder = folder
        self.names = [f"worker-{index}" for index in range(workers)]
        self.address = f"http://127.0.0.1:{free_port()}"
        self._database_url = database_url
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._disks = contextlib.ExitStack()
        self.disks: dict[str, MountedDisk | LimitedDisk | None] = {}
        self._logs = (folder / "fleet.log").open("ab")

    def __enter__(self) -> Self:
        for name in ("server", *self.names):
            made = disk(self.home(name), partial(self._process_id, name))
            self.disks[name] = self._disks.enter_context(made)
        self.start("server")
        self.wait_until_ready()
        for name in self.names:
            self.start(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in [*self.names, "server"]:
            self.kill(name)
        self._disks.close()
        self._logs.close()

    def home(self, name: str) -> Path:
        """The folder for the state of the server or a worker."""
        return self.folder / name

    @property
    def _token(self) -> HomeToken:
        return HomeToken(self.home("server"))

    def _process_id(self, name: str) -> int:
        return self._processes[name].pid

    def start(self, name: str) -> None:
        """Start the server or a worker."""
        port = self.address.rsplit(":", 1)[1]
        command = (
            ["-m", "bitbudget.app.cli", "serve", "--port", port]
            if name == "server"
            else ["-m", "bitbudget.workers.agent", "--server", self.address, "--name", name]
        )
        settings = {
            "BITBUDGET_HOME": str(self.home(name)),
            "BITBUDGET_DATABASE_URL": self._database_url,
            "BITBUDGET_LEASE_SECONDS": str(LEASE_SECONDS),
            "BITBUDGET_RENEW_SECONDS": "0.5",
            "BITBUDGET_POLL_SECONDS": "0.1",
            "BITBUDGET_SWEEP_SECONDS": "0.3",
            "BITBUDGET_LOG_LEVEL": "warning",
        }
        if name != "server":  # its home is not the server's
            settings["BITBUDGET_TOKEN"] = self._token.known()
        self._processes[name] = subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env={**os.environ, **settings},
            stdout=self._logs,
            stderr=self._logs,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        """End a process without warning; a worker's child is left to notice by itself."""
        process = self._processes[name]
        process.kill()
        process.wait()

    def kill_child(self, name: str) -> bool:
        """End the child of a worker without warning; whether it had one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._processes[name].pid).children(recursive=True):
                child.send_signal(signal.SIGKILL)
                return True
        return False

    def restart(self, name: str) -> None:
        """Kill a process and start it again."""
        self.kill(name)
        self.start(name)

    def has_ended(self, name: str) -> bool:
        """Whether a process ended by itself, which none may."""
        return self._processes[name].poll() is not None

    def wait_until_ready(self) -> None:
        """Return once the server answers."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(BitbudgetError), self.client() as client:
                next(client.jobs(), None)
                return
            time.sleep(0.05)
        log = (self.folder / "fleet.log").read_text(errors="replace")[-2000:]
        message = f"the server did not answer within {_START_SECONDS} s: {log}"
        raise TimeoutError(message)

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A client of the server."""
        with Client(self.address, token=self._token.known()) as client:
            yield client
