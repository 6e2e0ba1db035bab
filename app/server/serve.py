"""Run the server: migrate, refuse what is unsafe, listen, and stop within seconds."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import Final

import uvicorn
from fastapi import FastAPI

from bitbudget.app.http.errors import UnsafeBindError
from bitbudget.app.http.logs import configure_logging
from bitbudget.app.jobs.notifications import Pulse
from bitbudget.app.server.main import create_app
from bitbudget.app.server.protocol import MOST_HEAD_BYTES, BoundedProtocol
from bitbudget.app.server.services import Services
from bitbudget.app.server.settings import Settings
from bitbudget.app.storage import migrate

__all__ = ["prepare", "serve"]

_KEEP_ALIVE_SECONDS: Final = 75
"""Longer than clients pause between polls, and than most proxies keep a connection themselves."""
_MOST_CONNECTIONS: Final = 2048
"""Open at once, event streams included; more are told to come back."""
_SWITCH_SECONDS: Final = 0.0005
"""How long a thread that computes may keep the event loop waiting; Python's own is ten times it."""

Listener = Callable[[str], None]


def serve(settings: Settings, *, on_listening: Listener | None = None) -> None:
    """Serve until interrupted; `on_listening` is told the address once it is open.

    Raises UnsafeBindError for an address other than loopback while there is no key.
    """
    configure_logging(settings.log_level, settings.log_format)
    app = prepare(settings)
    services: Services = app.state.services
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=BoundedProtocol,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        limit_concurrency=_MOST_CONNECTIONS,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    _answer_evenly()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once all is closed
        _Server(config, services.pulse, on_listening).run()


def _answer_evenly() -> None:
    """Keep what would make a few answers slow away from the event loop.

    A full garbage collection walks 150,000 objects that live as long as the server: 50 ms and more
    in which nothing is answered, unless they are set aside.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()


def prepare(settings: Settings) -> FastAPI:
    """Return the application on a migrated database; UnsafeBindError if it must not listen."""
    _keep_to_oneself(settings)
    app = create_app(settings)
    services: Services = app.state.services
    migrate.upgrade(services.database)
    if settings.needs_keys and not services.keys.has_usable():
        services.database.dispose()
        raise UnsafeBindError(host=settings.host)
    if not settings.needs_keys:
        services.access.home_token.text()
    return app


def _keep_to_oneself(settings: Settings) -> None:
    """Keep other users of the machine from the home and what is written from now on."""
    os.umask(0o077)
    settings.home_folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # somebody else's folder
        settings.home_folder.chmod(0o700)
        for name in ("bitbudget.db", "bitbudget.db-wal", "bitbudget.db-shm"):
            (settings.home_folder / name).chmod(0o600)


class _Server(uvicorn.Server):
    """Says where it listens, and ends event streams before it waits for open requests."""

    def __init__(self, config: uvicorn.Config, pulse: Pulse, on_listening: Listener | None) -> None:
        super().__init__(config)
        self._pulse: Final = pulse
        self._on_listening: Final = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, then say so."""
        await super().startup(sockets)
        if self._on_listening is not None and self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._on_listening(f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then wait for the rest."""
        self._pulse.stop()
        await super().shutdown(sockets)
