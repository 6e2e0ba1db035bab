"""SHA-256 of weight files, remembered so that many gigabytes are hashed once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from bitbudget.app.core.canonical import canonical_json, sha256_of

__all__ = ["file_digest", "folder_digest", "known_digest", "remember_digest"]


def folder_digest(folder: Path, names: Sequence[str], cache: Path | None = None) -> str:
    """Return one SHA-256 over the names and digests of files in `folder`."""
    digests = {name: file_digest(folder / name, cache) for name in names}
    return sha256_of(canonical_json(digests))


def file_digest(path: Path, cache: Path | None = None) -> str:
    """Return the file's hex SHA-256, from `cache` when size, inode and times are the same."""
    if cache is None:
        return _hash(path)
    known = known_digest(path, cache)
    if known is not None:
        return known
    entry = _entry(path, cache)
    digest = _hash(path)
    if entry == _entry(path, cache):
        remember_digest(path, cache, digest)
    return digest


def known_digest(path: Path, cache: Path) -> str | None:
    """Return the SHA-256 that `cache` has of the file as it is now."""
    try:
        return str(json.loads(_entry(path, cache).read_bytes())["sha256"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def remember_digest(path: Path, cache: Path, sha256: str) -> None:
    """Keep the digest of a file that has not changed since it was read."""
    entry = _entry(path, cache)
    cache.mkdir(parents=True, exist_ok=True)
    draft = entry.with_suffix(f".{os.getpid()}")
    draft.write_bytes(canonical_json({"path": str(path), "sha256": sha256}))
    draft.replace(entry)


def _entry(path: Path, cache: Path) -> Path:
    status = path.stat()
    times = [status.st_mtime_ns, status.st_ctime_ns]  # `cp -p` sets the first, nobody the second
    key = [str(path.resolve()), status.st_size, *times, status.st_ino]
    return cache / f"{sha256_of(canonical_json(key))}.json"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
