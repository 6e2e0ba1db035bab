"""What a worker keeps to save work goes when it is old, and nothing else does."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bitbudget.app.cli.caches import CACHES, Released, release_caches
from bitbudget.app.contract.home import Folder

NOW = datetime(2026, 6, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def put(file: Path, *, read_days_ago: float, written_days_ago: float) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"12345")
    read, written = (
        (NOW - timedelta(days=days)).timestamp() for days in (read_days_ago, written_days_ago)
    )
    os.utime(file, (read, written))
    for folder in (file.parent, file.parent.parent):
        os.utime(folder, (NOW.timestamp(), written))
    return file


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: cache.directory)
def test_an_old_entry_goes_and_one_that_was_read_stays(cache: Folder, tmp_path: Path) -> None:
    old = put(cache.under(tmp_path) / "old" / "file", read_days_ago=30, written_days_ago=30)
    read = put(cache.under(tmp_path) / "read" / "file", read_days_ago=1, written_days_ago=30)
    assert release_caches(tmp_path, age=WEEK, now=NOW) == Released(1, 5)
    assert not old.parent.exists()
    assert read.exists()


def test_measurements_manifests_and_checkpoints_stay(tmp_path: Path) -> None:
    kept = [
        put(folder.under(tmp_path) / "x" / "file", read_days_ago=99, written_days_ago=99)
        for folder in set(Folder) - set(CACHES)
    ]
    assert release_caches(tmp_path, age=WEEK, now=NOW) == Released(0, 0)
    assert all(file.exists() for file in kept)


def test_a_home_that_is_not_there_has_nothing_to_remove(tmp_path: Path) -> None:
    assert release_caches(tmp_path / "none", age=WEEK, now=NOW) == Released(0, 0)
