"""What a worker keeps only to save work, and how it is let go."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from bitbudget.app.contract.home import Folder

__all__ = ["CACHES", "Released", "release_caches"]

CACHES: Final = tuple(folder for folder in Folder if folder.is_cache)


@dataclass(frozen=True, slots=True)
class Released:
    """What was removed."""

    entries: int
    nbytes: int


def release_caches(home: Path, *, age: timedelta, now: datetime) -> Released:
    """Remove the entries of `CACHES` in which nothing was read or written for `age`.

    Measurements, manifests and checkpoints are no caches: they stay.
    """
    oldest = (now - age).timestamp()
    entries = nbytes = 0
    for entry in (e for folder in CACHES for e in _entries(folder.under(home))):
        found = [file.lstat() for file in (entry, *entry.rglob("*"))]
        if max(map(_last_used, found)) >= oldest:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        entries += 1
        nbytes += sum(file.st_size for file in found if not stat.S_ISDIR(file.st_mode))
    return Released(entries, nbytes)


def _last_used(file: os.stat_result) -> float:
    """Return when a file was read or written; a folder is read by looking into it, as here."""
    return file.st_mtime if stat.S_ISDIR(file.st_mode) else max(file.st_atime, file.st_mtime)


def _entries(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(folder.iterdir())
