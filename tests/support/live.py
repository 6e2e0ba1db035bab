"""A real server process on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitbudget.app.contract.home_token import HomeToken

REPOSITORY: Final = Path(__file__).resolve().parents[2]
_PROGRAM: Final = (
    "from bitbudget.app.server.serve import serve; "
    "from bitbudget.app.server.settings import Settings; "
    "serve(Settings(), on_listening=lambda url: print(url, flush=True))"
)
_STOP_SECONDS: Final = 20.0


@dataclass(frozen=True)
class LiveServer:
    """A process and its address."""

    url: str
    process: subprocess.Popen[str]
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """What its user's requests carry: the token in its home."""
        return {"Authorization": f"Bearer {self.token}"}

    def terminate(self) -> None:
        """Ask it to stop; TimeoutExpired unless it does within 20 seconds."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(_STOP_SECONDS)

    def kill(self) -> None:
        """Give it no chance to tidy up."""
        self.process.kill()
        self.process.wait(_STOP_SECONDS)


def server_environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server with this home and these `BITBUDGET_` settings."""
    own = {f"BITBUDGET_{name.upper()}": value for name, value in settings.items()}
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "BITBUDGET_HOME": str(home), "PYTHONPATH": path, **own}


def start_server(home: Path, **settings: str) -> LiveServer:
    """Start a server and wait until it listens."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env=server_environment(home, {"port": "0", **settings}),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    output = process.stdout
    assert output is not None
    url = output.readline().strip()
    assert url.startswith("http://"), (home / "server.log").read_text()
    output.close()
    return LiveServer(url, process, HomeToken(home).known())


@contextmanager
def live_server(home: Path, **settings: str) -> Iterator[LiveServer]:
    """A server that is gone when the block ends."""
    server = start_server(home, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
