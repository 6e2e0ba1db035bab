"""`bitbudget serve`, `worker` and `gc`: the server, a machine that works for it, and its care."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import DiskLimit, Json, Server, Token, disk_limit_bytes
from app.cli.output import say, stderr

if TYPE_CHECKING:
    from app.settings import Settings

__all__ = ["serve", "worker"]


def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    as_json: Json = False,
) -> None:
    """Run the server with its dashboard until interrupted; BITBUDGET_* variables set the rest."""
    from app.cli.extras import require_extra

    require_extra("server", "serve")
    from app.serve import serve as run

    def on_listening(address: str) -> None:
        if as_json:
            say({"address": address}, as_json=True)
        else:
            stderr().print(f"bitbudget listens on {address} (dashboard; API: {address}/docs)")

    run(_settings(host, port), on_listening=on_listening)


def _settings(host: str | None, port: int | None) -> Settings:
    from app.settings import Settings

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
    as_json: Json = False,
) -> None:
    """Work for a server until interrupted: claim jobs and run each in a child process."""
    from app.cli.extras import require_extra

    require_extra("worker", "worker")
    command = [sys.executable, "-m", "workers.agent", "--server", server]
    command += ["--name", name] if name else []
    command += ["--idle-exit"] if idle_exit else []
    limit = disk_limit_bytes(disk_limit)
    command += [] if limit is None else ["--disk-limit", str(limit)]
    environment = dict(os.environ)
    if token:
        environment["BITBUDGET_TOKEN"] = token
    status = _attend(command, environment)
    if status:
        raise typer.Exit(1)
    if as_json:
        say({"server": server, "ended": True}, as_json=True)


def _attend(command: list[str], environment: dict[str, str]) -> int:
    """Run an agent; an interrupt reaches it too, and it hands its job back before it ends."""
    with subprocess.Popen(command, env=environment) as agent:
        while True:
            try:
                return agent.wait()
            except KeyboardInterrupt:
                continue
