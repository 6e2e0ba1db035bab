"""`bitbudget serve`, `worker` and `gc`: the server, a machine that works for it, and its care."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitbudget.app.cli.options import DiskLimit, Json, Server, Token, disk_limit_bytes
from bitbudget.app.cli.output import say, stderr
from bitbudget.app.cli.processes import attend, check_port

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.server.retention import Collected
    from bitbudget.app.server.settings import Settings

__all__ = ["gc", "serve", "worker"]


def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    as_json: Json = False,
) -> None:
    """Run the server with its dashboard until interrupted; BITBUDGET_* variables set the rest."""
    from bitbudget.app.cli.extras import require_extra

    require_extra("server", "serve")
    from bitbudget.app.contract.home_token import HomeToken
    from bitbudget.app.server.serve import serve as run

    settings = _settings(host, port)

    def on_listening(address: str) -> None:
        page = f"{address}/"
        link = page if settings.needs_keys else HomeToken(settings.home_folder).link(page)
        if as_json:
            say({"address": address, "dashboard": link}, as_json=True)
        else:
            stderr().print(
                f"bitbudget listens on {address} (API: {address}/docs)\ndashboard  {link}",
                soft_wrap=True,
            )

    check_port(settings.host, settings.port)
    run(settings, on_listening=on_listening)
    stderr().print(
        f"\nStopped. Jobs and results are kept in {settings.home_folder};"
        " bitbudget serve goes on with them.",
        markup=False,
        soft_wrap=True,
    )


def _settings(host: str | None, port: int | None) -> Settings:
    from bitbudget.app.server.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port}
    return Settings(**{name: value for name, value in given.items() if value is not None})


def worker(
    *,
    server: Server,
    token: Token = None,
    name: Annotated[str | None, typer.Option(help="Shown to people.")] = None,
    idle_exit: Annotated[
        bool, typer.Option("--idle-exit", help="End when there is no job.")
    ] = False,
    disk_limit: DiskLimit = None,
    publish_to: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE",
            help="Hub user or organisation that this server's users may publish checkpoints to, "
            "with the token in this worker's HF_TOKEN.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Work for a server until interrupted: claim jobs and run each in a child process."""
    from bitbudget.app.cli.extras import require_extra

    require_extra("worker", "worker")
    command = [sys.executable, "-m", "bitbudget.workers.agent", "--server", server]
    command += ["--name", name] if name else []
    command += ["--idle-exit"] if idle_exit else []
    command += ["--publish-to", publish_to] if publish_to else []
    limit = disk_limit_bytes(disk_limit)
    command += [] if limit is None else ["--disk-limit", str(limit)]
    environment = dict(os.environ)
    if token:
        environment["BITBUDGET_TOKEN"] = token
    status = attend(command, environment)
    stderr().print(
        "Stopped. An unfinished job is the server's again, and goes on from what is kept here.",
        soft_wrap=True,
    )
    if status:
        raise typer.Exit(1)
    if as_json:
        say({"server": server, "ended": True}, as_json=True)


def gc(
    *,
    days: Annotated[
        float | None, typer.Option(help="Age in days (default: BITBUDGET_RETENTION_DAYS).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove what nobody used for long: a server's finished jobs, a worker's caches.

    Measurements, manifests and checkpoints stay.
    """
    from dataclasses import asdict

    from bitbudget.app.cli.caches import release_caches
    from bitbudget.app.cli.extras import has_extra
    from bitbudget.app.core.sizes import format_size
    from bitbudget.app.server.settings import Settings
    from bitbudget.app.storage.ids import utc_now

    settings = Settings() if days is None else Settings(retention_days=days)
    age = timedelta(days=settings.retention_days)
    released = release_caches(settings.home_folder, age=age, now=utc_now())
    removed = asdict(_collect(settings)) if has_extra("server") else {}

    def render(console: Console) -> None:
        if removed:
            size = format_size(removed["artifact_bytes"])
            console.print(
                f"removed {removed['jobs']} jobs, {removed['workers']} workers, "
                f"{removed['artifacts']} files ({size})"
            )
        size = format_size(released.nbytes)
        console.print(f"removed {released.entries} cache entries ({size})")

    caches = {"cache_entries": released.entries, "cache_bytes": released.nbytes}
    say(removed | caches, as_json=as_json, render=render)


def _collect(settings: Settings) -> Collected:
    from bitbudget.app.server.retention import collect_garbage
    from bitbudget.app.storage.database import Database
    from bitbudget.app.storage.migrate import upgrade

    database = Database(settings.resolved_database_url)
    upgrade(database)
    database.dispose()
    return collect_garbage(settings)
