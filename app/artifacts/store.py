"""Stored bytes, addressed by their SHA-256, in a folder or behind any fsspec URL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.errors import NotFoundError

__all__ = ["ArtifactStore", "Blob"]

_PROBE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob and when it was last put."""

    digest: str
    nbytes: int
    put_at: datetime


class ArtifactStore:
    """A blob is written once, whole, and never changes."""

    def __init__(self, url: str) -> None:
        self._files, self._root = url_to_fs(url)
        self._is_local: Final = isinstance(self._files, LocalFileSystem)

    def put(self, data: bytes) -> str:
        """Store `data` and return its digest; bytes already there are only made young again."""
        digest = sha256_of(data)
        path = self._path(digest)
        if self._is_local and self._files.exists(path):
            self._files.touch(path, truncate=False)
        else:
            self._write(path, data)
        return digest

    def keep(self, data: bytes, digest: str) -> None:
        """Store `data` again if its blob was removed since it was put."""
        if not self._files.exists(self._path(digest)):
            self._write(self._path(digest), data)

    def get(self, digest: str) -> bytes:
        """Return the bytes with this digest; NotFoundError when they were removed."""
        try:
            return bytes(self._files.cat_file(self._path(digest)))
        except FileNotFoundError as error:
            raise NotFoundError(what="artifact", name=digest) from error

    def delete(self, digest: str) -> None:
        """Remove a blob, if it is there."""
        path = self._path(digest)
        if self._files.exists(path):
            self._files.rm_file(path)

    def blobs(self) -> Iterator[Blob]:
        """Give every stored blob."""
        for path, name in self._paths():
            if not name.startswith("."):
                yield Blob(name, self._files.size(path), _aware(self._files.modified(path)))

    def delete_partial(self, before: datetime) -> tuple[int, int]:
        """Remove what killed servers left half-written; return how many files and bytes."""
        count = nbytes = 0
        for path, name in self._paths():
            if name.startswith(".") and _aware(self._files.modified(path)) < before:
                nbytes += self._files.size(path)
                count += 1
                self._files.rm_file(path)
        return count, nbytes

    def _paths(self) -> Iterator[tuple[str, str]]:
        if self._files.exists(self._root):
            for path in self._files.find(self._root):
                yield path, path.rsplit("/", 1)[-1]

    def check(self) -> None:
        """Raise OSError when nothing can be written."""
        self._files.makedirs(self._root, exist_ok=True)
        probe = f"{self._root}/.probe-{secrets.token_hex(4)}"
        try:
            self._files.pipe_file(probe, bytes(_PROBE_BYTES))  # a full disk takes empty files
        finally:
            if self._files.exists(probe):
                self._files.rm_file(probe)

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest}"

    def _write(self, path: str, data: bytes) -> None:
        if not self._is_local:  # object stores show a blob when it is whole
            self._files.pipe_file(path, data)
            return
        folder, name = path.rsplit("/", 1)
        Path(folder).mkdir(parents=True, exist_ok=True)
        partial = Path(folder) / f".{name}.{secrets.token_hex(4)}"
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _sync_folder(folder)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def _sync_folder(folder: str) -> None:
    """Wait until the disk knows the folder's new entry: a rename alone may be lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
