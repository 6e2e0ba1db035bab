"""A server that is killed while it receives a file keeps nothing of it, and takes it again."""

from __future__ import annotations

import base64
import hashlib
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.live import start_server
from tests.support.reports import evaluation

pytestmark = pytest.mark.chaos
WORKER = {
    "name": "machine",
    "capabilities": {"chip": "x", "memory_bytes": 1, "backend": "cpu", "mlx_version": "1"},
}


def files(home: Path) -> set[str]:
    kept = {path.name for path in home.rglob("*") if path.is_file()}
    return {name for name in kept if not name.startswith(("bitbudget.db", "server.log"))}


def test_half_an_artifact_leaves_nothing(tmp_path: Path) -> None:
    data = evaluation().to_json()
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    server = start_server(tmp_path)
    try:
        with httpx2.Client(base_url=server.url, headers=server.headers, timeout=30) as http:
            worker = http.post("/v1/workers", json=WORKER).json()
            http.post("/v1/jobs", json={"model": "org/model", "budget": "1GiB"})
            lease = http.post("/v1/leases", json={"worker_id": worker["worker_id"]}).json()
        before = files(tmp_path)
        path = f"/v1/leases/{lease['lease_id']}/artifacts/evaluation.json?attempt=1"
        place = urlsplit(server.url)
        with socket.create_connection((place.hostname, place.port), timeout=30) as line:
            line.sendall(
                f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 15000000\r\n"
                f"Authorization: Bearer {server.token}\r\n"
                f"Content-Digest: sha-256=:{digest}:\r\n\r\n".encode()
            )
            line.sendall(b" " * 8_000_000)
            time.sleep(0.5)
            server.kill()
        assert files(tmp_path) == before
        server = start_server(tmp_path)
        answer = httpx2.put(
            f"{server.url}{path}",
            content=data,
            headers={**server.headers, "Content-Digest": f"sha-256=:{digest}:"},
            timeout=30,
        )
        assert answer.is_success, answer.text
        assert len(files(tmp_path) - before) == 1
    finally:
        server.kill()
