"""Downloading files of a commit: resumed after any interruption, visible only when verified."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from bitbudget.app.contract.home import Folder
from bitbudget.app.core.errors import BitbudgetError, InvalidModelError
from bitbudget.app.core.sizes import format_size
from bitbudget.workers.hub.client import Hub, HubFile, HubModel
from bitbudget.workers.hub.failures import FAILURES, hub_tries, raise_meaning

__all__ = ["Downloader", "Progress", "check_digest", "model_folder"]

Progress = Callable[[str, int, int], None]
"""Told a file's name, its bytes present and its size."""


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def model_folder(home: Path, model: HubModel) -> Path:
    """Return the folder under `home` that holds the files of this commit."""
    return Folder.HUB.under(home) / model.repository.replace("/", "--") / model.commit


class Downloader:
    """Brings files of one commit into one folder.

    A file appears under its name only after its bytes have the digest that the Hub lists; until
    then they are in `.NAME.part`, where the next attempt, of this process or another, goes on.
    """

    def __init__(
        self, hub: Hub, model: HubModel, folder: Path, progress: Progress | None = None
    ) -> None:
        self.hub = hub
        self.model = model
        self.folder = folder
        self._progress = progress or (lambda _name, _done, _total: None)

    def fetch(self, name: str) -> Path:
        """Return the verified file, downloaded unless it is there.

        Raises InvalidModelError for a wrong size or digest, HubUnavailableError when the Hub or the
        network fails for longer than the Hub's patience, BitbudgetError when the disk is full.
        """
        file = self.model.file(name)
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / f".{name}.lock"):
            if not (path.is_file() and path.stat().st_size == file.nbytes):
                self._complete(file, path)
        self._progress(name, file.nbytes, file.nbytes)
        return path

    def _complete(self, file: HubFile, path: Path) -> None:
        part = self.folder / f".{file.name}.part"
        resumed = part.exists()
        self._download(file, part)
        try:
            _check(self.model, file, _hash_file(file, part))
        except InvalidModelError:
            part.unlink()
            if not resumed:
                raise
            self._download(file, part)
            _check(self.model, file, _hash_file(file, part))
        part.replace(path)

    def _download(self, file: HubFile, part: Path) -> None:
        try:
            while not self._is_complete_after_tries(file, part):
                pass
        except FAILURES as error:
            raise_meaning(self.model.describe(file.name), error)

    def _is_complete_after_tries(self, file: HubFile, part: Path) -> bool:
        """Append what is missing; False when a try failed but got further: its successor counts."""
        before = _size(part)
        for attempt in hub_tries(self.hub.retries):
            if _size(part) > before:
                return False
            with attempt:
                self._append(file, part)
        return True

    def _append(self, file: HubFile, part: Path) -> None:
        start = _size(part)
        if start > file.nbytes:
            part.unlink()
            start = 0
        self._check_space(file.nbytes - start)
        with part.open("ab") as output:
            if start == file.nbytes:
                return
            with self.hub.open(self.model, file.name, start) as chunks:
                for chunk in chunks:
                    start += len(chunk)
                    if start > file.nbytes:
                        raise _too_long(self.model, file)
                    output.write(chunk)
                    self._progress(file.name, start, file.nbytes)

    def _check_space(self, nbytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if nbytes > free:
            raise BitbudgetError(
                reason=f"{self.folder} has {format_size(free)} free and the download needs "
                f"{format_size(nbytes)}; make room, or state --disk-limit to keep only the shards "
                "in use"
            )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _too_long(model: HubModel, file: HubFile) -> InvalidModelError:
    return InvalidModelError(
        where=model.describe(file.name),
        found="a longer file",
        expected=f"{file.nbytes} bytes, as the Hub lists it",
        remedy="try again; if it stays so, the mirror or proxy in between changes files",
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_digest(model: HubModel, file: HubFile, content: bytes) -> None:
    """Raise InvalidModelError unless `content` is what the Hub lists for `file`."""
    digest = _new_hash(file)
    digest.update(content)
    _check(model, file, digest)


def _new_hash(file: HubFile) -> _Hash:
    """SHA-256 of the content, or git's blob id for a file that is not in LFS."""
    if file.sha256 is not None:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.nbytes, usedforsecurity=False)


def _hash_file(file: HubFile, path: Path) -> _Hash:
    digest = _new_hash(file)
    with path.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return digest


def _check(model: HubModel, file: HubFile, digest: _Hash) -> None:
    expected = file.sha256 or file.blob_id
    if digest.hexdigest() != expected:
        raise InvalidModelError(
            where=model.describe(file.name),
            found=f"content with digest {digest.hexdigest()}",
            expected=expected,
            remedy="try again; if it stays so, the mirror or proxy in between changes files",
        )
