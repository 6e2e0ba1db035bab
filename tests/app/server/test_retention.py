from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from bitbudget.app.artifacts.store import ArtifactStore
from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.server.retention import Collected, collect
from tests.support.http import Server

WEEK = timedelta(days=7)


def clean(server: Server) -> Collected:
    services = server.services
    return collect(services.database, services.store, age=WEEK, now=server.clock())


def grow_old(store: Path) -> None:
    past = time.time() - 7200
    for path in store.rglob("*"):
        os.utime(path, (past, past))


def test_only_old_finished_jobs_go_and_measurements_stay(
    server: Server, measurement: Measurement, tmp_path: Path
) -> None:
    done, waiting = server.submit(), server.submit(model="org/other")
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    assert clean(server) == Collected(0, 0, 0, 0)
    server.clock.pass_seconds(8 * 86_400)
    young = clean(server)
    assert (young.jobs, young.workers, young.artifacts) == (1, 1, 0)
    grow_old(tmp_path / "artifacts")
    old = clean(server)
    assert (old.jobs, old.artifacts) == (0, 3)
    assert old.artifact_bytes > len(measurement.to_json())
    assert server.http.get(f"/v1/jobs/{done['id']}").status_code == 404
    assert server.job(waiting["id"])["status"] == "queued"
    again = server.submit()
    assert again["status"] == "succeeded"
    assert server.http.get(f"/v1/jobs/{again['id']}/manifest").status_code == 200


def test_a_blob_put_again_is_young_again(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    digest = store.put(b"data")
    grow_old(tmp_path)
    assert store.put(b"data") == digest
    (blob,) = store.blobs()
    assert time.time() - blob.put_at.timestamp() < 60
    assert blob.nbytes == 4


def test_a_blob_is_whole_or_not_there(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/new/store")
    digest = store.put(b"\x00" * 1000)
    assert store.get(digest) == b"\x00" * 1000
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    store.delete(digest)
    store.delete(digest)
    with pytest.raises(NotFoundError, match=digest):
        store.get(digest)


def test_any_fsspec_address_will_do() -> None:
    store = ArtifactStore("memory://bitbudget-test")
    digest = store.put(b"data")
    store.check()
    assert store.get(digest) == b"data"
    assert [blob.digest for blob in store.blobs()] == [digest]


def test_what_a_killed_server_left_half_written_goes(server: Server, tmp_path: Path) -> None:
    services = server.services
    digest = services.store.put(b"data")
    half = tmp_path / "artifacts" / digest[:2] / f".{digest}.0123"
    half.write_bytes(b"da")
    assert clean(server).artifacts == 0
    grow_old(tmp_path / "artifacts")
    assert clean(server) == Collected(0, 0, 2, 6)
    assert not half.exists()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from bitbudget.app.artifacts.store import ArtifactStore\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "ArtifactStore(sys.argv[1]).put(bytes(2000))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "File too large" in ended.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
