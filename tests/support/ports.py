"""A port for a server whose address must be known before it starts, or outlive it."""

from __future__ import annotations

import random
import socket
from typing import Final

__all__ = ["free_port"]

_PORTS: Final = range(20_000, 32_000)
"""Below those that systems give to outgoing connections and to servers that ask for any port."""


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on.

    No other process is given it by chance, so that a server that was stopped can have it again.
    """
    chance = random.SystemRandom()
    while True:
        port = chance.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
