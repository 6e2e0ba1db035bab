"""A client that keeps the server busy keeps nobody else waiting."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.live import LiveServer, live_server

pytestmark = pytest.mark.hostile


def connected(server: LiveServer) -> socket.socket:
    place = urlsplit(server.url)
    return socket.create_connection((place.hostname, place.port), timeout=30)


def test_a_huge_head_is_refused_and_nobody_waits(tmp_path: Path) -> None:
    with live_server(tmp_path) as server, connected(server) as line:
        line.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        sent = 0
        with suppress(OSError):  # reset or broken pipe, as it comes
            while sent < 60_000_000:
                sent += line.send(b"x" * 65536)
                assert httpx2.get(f"{server.url}/livez", timeout=2).is_success
        assert sent < 5_000_000


def test_half_sent_heads_are_cut(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        lines = [connected(server) for _ in range(100)]
        for line in lines:
            line.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert httpx2.get(f"{server.url}/livez").is_success
        began = time.monotonic()
        for line in lines:
            assert line.recv(1) == b""
            line.close()
        assert time.monotonic() - began < 20
