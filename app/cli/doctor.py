"""`bitbudget doctor`: what this machine can do, and what to do about the rest."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.completion import device_names
from bitbudget.app.cli.options import Json, Token
from bitbudget.app.cli.output import say
from bitbudget.app.core.sizes import format_size
from bitbudget.distribution import install_hint

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.server.settings import Settings

__all__ = ["doctor"]

_OLDEST_PYTHON = (3, 11)
_LEAST_FREE_BYTES = 10 * 2**30
_MOST_DIFFERENCE = 1e-3
"""Of the largest logit: approximations of GELU are within 6e-4, all else within 2e-6."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `level` is ok, note or bad, `remedy` what to do."""

    name: str
    level: str
    detail: str
    remedy: str = ""


def doctor(
    *,
    server: Annotated[
        str | None, typer.Option(envvar="BITBUDGET_SERVER", help="Also ask this server.")
    ] = None,
    token: Token = None,
    remember: Annotated[
        bool,
        typer.Option("--remember", help="Keep this Mac, or --device, as the one to answer for."),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(help="The Mac to keep, such as m4-pro-24gb.", autocompletion=device_names),
    ] = None,
    logits: Annotated[
        bool,
        typer.Option(
            "--logits",
            help="Also compare logits with transformers on tiny models: torch is needed, see"
            " BITBUDGET_TORCH_PYTHON.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check this machine: Python, packages, MLX, BLAS, memory, disk, database, server."""
    from bitbudget.app.fit.remembered import detected_device, remember_device
    from bitbudget.app.server.settings import Settings

    settings = Settings()
    if remember:
        remember_device(device or detected_device(), settings.home_folder)
    findings = [
        *_python(),
        *_extras(),
        *_machine(),
        *_my_mac(settings.home_folder),
        *_home(settings.home_folder),
        *_database(settings),
        *_server(server, token),
        *(_logits() if logits else ()),
    ]
    bad = [finding for finding in findings if finding.level == "bad"]
    document = {"ok": not bad, "findings": [asdict(finding) for finding in findings]}
    say(document, as_json=as_json, render=lambda console: _print(console, findings))
    if bad:
        raise typer.Exit(1)


def _python() -> Iterator[Finding]:
    found = platform.python_version()
    if sys.version_info[:2] >= _OLDEST_PYTHON:
        yield Finding("Python", "ok", found)
    else:
        yield Finding("Python", "bad", found, "install Python 3.11 or newer")


def _extras() -> Iterator[Finding]:
    from bitbudget.app.cli.extras import has_extra

    uses = {
        "worker": "measure, quantize, evaluate and run models here",
        "server": "serve the API and the dashboard here",
        "cluster": "spread a measurement over a Dask cluster",
    }
    for extra, use in uses.items():
        if has_extra(extra):
            yield Finding(f"[{extra}] extra", "ok", f"can {use}")
        else:
            remedy = f"{install_hint(extra)} to {use}"
            yield Finding(f"[{extra}] extra", "note", "not installed", remedy)


def _machine() -> Iterator[Finding]:
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    kind = "Metal" if apple else "CPU only: fine for measuring, slow for benchmarks"
    yield Finding("MLX backend", "ok" if apple else "note", kind)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", "ok", f"{format_size(memory)}, {os.cpu_count()} cores")


def _my_mac(home: Path) -> Iterator[Finding]:
    from bitbudget.app.fit.remembered import remembered_device

    found = remembered_device(home)
    if found is None:
        remedy = "bitbudget doctor --remember, with --device NAME for another one"
        yield Finding("my Mac", "note", "none kept: pages and bitbudget fit ask for one", remedy)
    else:
        yield Finding("my Mac", "ok", f"{found}: pages and bitbudget fit answer for it")


def _home(folder: Path) -> Iterator[Finding]:
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        remedy = "set BITBUDGET_HOME to a folder you may write to"
        yield Finding("home", "bad", f"{folder} cannot be written", remedy)
        return
    free = shutil.disk_usage(existing).free
    enough = free >= _LEAST_FREE_BYTES
    remedy = "" if enough else "free some space, or set BITBUDGET_HOME to a larger disk"
    detail = f"{folder}, {format_size(free)} free"
    yield Finding("home", "ok" if enough else "note", detail, remedy)


def _database(settings: Settings) -> Iterator[Finding]:
    from bitbudget.app.cli.extras import has_extra

    if not has_extra("server"):
        return
    from sqlalchemy.exc import SQLAlchemyError

    from bitbudget.app.storage import migrate
    from bitbudget.app.storage.database import Database

    database = Database(settings.resolved_database_url)
    where = database.url.render_as_string(hide_password=True)
    if database.is_sqlite and not Path(database.url.database or "").exists():
        yield Finding("database", "ok", f"{where}, made at the first start")
        return
    try:
        current = migrate.is_current(database)
    except SQLAlchemyError as error:
        remedy = "check BITBUDGET_DATABASE_URL and that the database runs"
        yield Finding("database", "bad", f"{where}: {type(error).__name__}", remedy)
        return
    finally:
        database.dispose()
    remedy = "" if current else "bitbudget serve brings it up to date"
    yield Finding("database", "ok" if current else "note", where, remedy)


def _server(address: str | None, token: str | None) -> Iterator[Finding]:
    if address is None:
        return
    from bitbudget.app.client.client import Client
    from bitbudget.app.core.errors import BitbudgetError

    try:
        with Client(address, token=token, timeout_seconds=5) as client:
            workers = sum(1 for _ in client.workers())
    except BitbudgetError as error:
        yield Finding("server", "bad", str(error), f"start it, or check the address {address}")
        return
    yield Finding("server", "ok", f"{address}, {workers} workers registered")


def _logits() -> Iterator[Finding]:
    """Compare tiny models with transformers in a process of their own."""
    module = "bitbudget.workers.running.against_transformers"
    answer = subprocess.run(
        [sys.executable, "-m", module], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no answer"])[-1]
        remedy = "check that BITBUDGET_TORCH_PYTHON has torch and transformers"
        yield Finding("logits", "bad", f"not compared: {last[:200]}", remedy)
        return
    found = json.loads(answer.stdout)
    if not found:
        remedy = "set BITBUDGET_TORCH_PYTHON to a Python that has torch and transformers"
        yield Finding("logits", "note", "not compared: no torch here", remedy)
    for model_type, value in found.items():
        name = f"logits of {model_type}"
        if not isinstance(value, float):
            yield Finding(name, "note", f"not compared: {value}")
        elif value < _MOST_DIFFERENCE:
            yield Finding(name, "ok", f"as in transformers, within {value:.0e} of the largest")
        else:
            remedy = "please report it with the versions of mlx-lm and transformers"
            yield Finding(name, "bad", f"{value:.1%} of the largest logit apart", remedy)


def _print(console: Console, findings: list[Finding]) -> None:
    marks = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}
    for finding in findings:
        console.print(marks[finding.level], end=" ")
        console.print(f"{finding.name}: {finding.detail}", markup=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"     {finding.remedy}", style="dim", markup=False, soft_wrap=True)
