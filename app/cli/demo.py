"""`bitbudget demo`: the whole service on this machine, from nothing to a proven checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bitbudget.app.cli.options import Json
from bitbudget.app.cli.output import say, stderr
from bitbudget.app.core.effort import Effort

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.client.client import Client
    from bitbudget.app.jobs.schemas import Job

__all__ = ["UNIFORM_BYTES", "demo"]

UNIFORM_BYTES: Final = 3_270_752
"""Bytes of the sample model in uniform 4-bit g64: the budget, so that both stand side by side."""

_END_SECONDS: Final = 20
_LOG: Final = "demo.log"
_SETTINGS: Final = {
    "BITBUDGET_LOG_LEVEL": "warning",
    "BITBUDGET_RENEW_SECONDS": "0.5",
    "BITBUDGET_POLL_SECONDS": "0.2",
}
"""Progress and the first claim come at once rather than within seconds."""


@dataclass(frozen=True)
class _Place:
    """Where the demo works: the model, the state and the log."""

    model: str
    home: Path

    @property
    def log(self) -> Path:
        return self.home / _LOG


def demo(
    *,
    model: Annotated[
        str, typer.Option(help="A folder or org/name[@revision] (default: the bundled sample).")
    ] = "",
    budget: Annotated[
        str, typer.Option(help="Bytes of the files (default: the sample's in uniform 4-bit g64).")
    ] = str(UNIFORM_BYTES),
    effort: Annotated[
        Effort, typer.Option(help="quick, standard or thorough: minutes instead of seconds.")
    ] = Effort.QUICK,
    as_json: Json = False,
) -> None:
    """Start a server and a worker here, submit a model, and show what comes of it."""
    from bitbudget.app.cli.demo_report import print_report, report_document
    from bitbudget.app.cli.extras import require_extra
    from bitbudget.app.cli.submit import raise_if_unfinished
    from bitbudget.app.client.client import Client
    from bitbudget.app.contract.home_token import HomeToken

    require_extra("server", "demo")
    require_extra("worker", "demo")
    place = _place(model)
    with ExitStack() as stack:
        address = stack.enter_context(_server(place))
        stack.enter_context(_worker(place, address))
        client = stack.enter_context(Client(address))
        job = _run(client, place, budget, effort, address)
        raise_if_unfinished(job, address)
        manifest = client.manifest(job.id)
    document, token = report_document(job, manifest), HomeToken(place.home)

    def render(console: Console) -> None:
        print_report(console, job, manifest, token)

    say(document, as_json=as_json, render=render)


def _place(model: str) -> _Place:
    from bitbudget.app.server.settings import Settings
    from bitbudget.samples import sample_model

    home = Settings().home_folder
    home.mkdir(parents=True, exist_ok=True)
    return _Place(_absolute(model) if model else str(sample_model()), home)


def _absolute(model: str) -> str:
    """The worker runs elsewhere: a folder's name must hold there, too."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _run(client: Client, place: _Place, budget: str, effort: Effort, address: str) -> Job:
    from bitbudget.app.cli.following import follow
    from bitbudget.app.contract.home_token import HomeToken
    from bitbudget.app.core.requests import Deliver, JobRequest

    stated = int(budget) if budget.isdecimal() else budget
    request = JobRequest(
        model=place.model, budget=stated, deliver=Deliver.CHECKPOINT, effort=effort
    )
    job = client.submit(request)
    console = stderr()
    page = HomeToken(place.home).link(f"{address}/jobs/{job.id}")
    console.print(f"dashboard  {page} while this runs", soft_wrap=True)
    console.print(f"budget     {request.budget_bytes:,} bytes for {place.model.rsplit('/', 1)[-1]}")
    return follow(client, job.id, address)


@contextmanager
def _server(place: _Place) -> Iterator[str]:
    command = [
        sys.executable,
        "-m",
        "bitbudget.app.cli",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    environment = {**os.environ, **_SETTINGS}
    with place.log.open("w") as log, _process([*command, "--json"], environment, log) as server:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            raise _did_not_start("server", place)
        yield json.loads(line)["address"]


@contextmanager
def _worker(place: _Place, address: str) -> Iterator[None]:
    command = [sys.executable, "-m", "bitbudget.workers.agent", "--server", address]
    with place.log.open("a") as log, _process(command, dict(os.environ), log):
        yield


@contextmanager
def _process(
    command: list[str], environment: dict[str, str], log: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run a process in a group of its own, so that an interrupt reaches it through us alone."""
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _did_not_start(what: str, place: _Place) -> Exception:
    from bitbudget.app.core.errors import ConflictError

    said = place.log.read_text(errors="replace").strip().splitlines()
    return ConflictError(
        what=what,
        name="demo",
        reason=f"it did not start: {said[-1] if said else 'it said nothing'}",
        remedy=f"see {place.log}",
    )
