"""A server that cannot do its work says that it is not ready."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from tests.chaos.disk import LimitedDisk
from tests.support.live import LiveServer, live_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path) as server:
        assert httpx2.get(f"{server.url}/readyz", timeout=30).status_code == 200
        yield server


def test_a_full_disk(server: LiveServer) -> None:
    with LimitedDisk(lambda: server.process.pid).full():
        answer = httpx2.get(f"{server.url}/readyz", timeout=30)
    assert (answer.status_code, "artifact store" in answer.json()["detail"]) == (503, True)
    assert httpx2.get(f"{server.url}/readyz", timeout=30).status_code == 200


def test_a_missing_table(server: LiveServer, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "bitbudget.db", timeout=30)) as connection:
        connection.execute("DROP TABLE artifacts")
        connection.commit()
    answer = httpx2.get(f"{server.url}/readyz", timeout=30)
    assert (answer.status_code, "schema" in answer.json()["detail"]) == (503, True)
