"""`bitbudget api`: an OpenAI-compatible endpoint for one checkpoint."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bitbudget.app.cli.processes import attend, check_port
from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["api"]


def api(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or model folder.")],
    *,
    host: Annotated[str, typer.Option(help="Loopback addresses only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8080,
    draft_model: Annotated[
        Path | None, typer.Option(help="A smaller model of the same tokenizer that drafts tokens.")
    ] = None,
    draft_tokens: Annotated[int, typer.Option(min=1, max=32, help="Tokens drafted at a time.")] = 3,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens unless a request says.")] = 512,
    allowed_origins: Annotated[
        str, typer.Option(help="Origins of web pages that may call it, separated by commas.")
    ] = "",
) -> None:
    """Serve a checkpoint over the OpenAI API with mlx-lm's own server, until interrupted.

    KV caches chosen layer by layer and rotations work for any client. The server has no keys: put a
    proxy that asks for one before it to serve other machines.
    """
    from bitbudget.app.cli.extras import require_extra

    require_extra("worker", "api")
    _check_host(host)
    check_port(host, port)
    for folder in (checkpoint, draft_model):
        if folder is not None:
            _check_folder(folder)
    command = [sys.executable, "-m", "bitbudget.workers.native.preload"]
    command += ["-m", "bitbudget.workers.api", str(checkpoint), "--host", host, "--port", str(port)]
    command += ["--max-tokens", str(max_tokens), "--draft-tokens", str(draft_tokens)]
    command += [] if draft_model is None else ["--draft-model", str(draft_model)]
    command += ["--allowed-origins", allowed_origins] if allowed_origins else []
    if attend(command, dict(os.environ)):
        raise typer.Exit(1)


def _check_host(host: str) -> None:
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise InvalidRequestError(
            where="--host",
            found=host,
            expected="127.0.0.1, ::1 or localhost: mlx-lm's server asks for no key",
            remedy="put a proxy that checks keys in front of a loopback address",
        )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InvalidRequestError(
            where=str(folder),
            found="no config.json",
            expected="a checkpoint or model folder",
            remedy="give a folder that bitbudget quantize or mlx_lm.convert wrote",
        )
