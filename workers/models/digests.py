"""SHA-256 of weight files, remembered so that many gigabytes are hashed once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from app.core.canonical import canonical_json, sha256_of

__all__ = ["file_digest", "folder_digest"]


def folder_digest(folder: Path, names: Sequence[str], cache: Path | None = None) -> str:
    """Return one SHA-256 over the names and digests of files in `folder`."""
    digests = {name: file_digest(folder / name, cache) for name in names}
    return sha256_of(canonical_json(digests))


def file_digest(path: Path, cache: Path | None = None) -> str:
    """Return the file's hex SHA-256, from `cache` when size and time of change are the same."""
    if cache is None:
        return _hash(path)
    status = path.stat()
    key = [str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino]
    entry = cache / f"{sha256_of(canonical_json(key))}.json"
    try:
        return str(json.loads(entry.read_bytes())["sha256"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        digest = _hash(path)
    cache.mkdir(parents=True, exist_ok=True)
    draft = entry.with_suffix(f".{os.getpid()}")
    draft.write_bytes(canonical_json({"path": str(path), "sha256": digest}))
    draft.replace(entry)
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
