"""Run a long-lived process of bitbudget in the foreground."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess

__all__ = ["attend", "check_port"]


def check_port(host: str, port: int) -> None:
    """Raise ConflictError where another program listens on the port already."""
    from bitbudget.app.core.errors import ConflictError

    if not port:
        return
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, number) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ConflictError(
                what="Port",
                name=str(port),
                reason=f"another program listens there on {host}",
                remedy="end that program, or choose another with --port",
            ) from error


def attend(command: list[str], environment: dict[str, str]) -> int:
    """Run `command` until it ends and return its exit status.

    An interrupt from the terminal reaches it anyway, a SIGTERM is passed on.
    """
    with subprocess.Popen(command, env=environment) as agent:
        signal.signal(signal.SIGTERM, lambda *_: agent.terminate())
        while True:
            try:
                return agent.wait()
            except KeyboardInterrupt:
                continue
