"""A checkpoint in the making: preallocated files, a journal of what is done, and one rename.

Everything lies in one folder beside the output, `.<name>.partial`. A run that was killed is taken
up where it stopped; a run for another manifest starts anew; two runs at once are refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bitbudget.app.core.errors import NO_ROOM, ConflictError, DiskFullError
from bitbudget.app.core.layout import Shard

__all__ = ["Draft", "clear_published", "disk_errors"]


@contextmanager
def disk_errors(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Turn the system's ways of saying "no room" into DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(folder).free
        raise DiskFullError(
            where=str(folder), needed_bytes=needed_bytes, free_bytes=free
        ) from error


@dataclass
class Draft:
    """The folder of one unfinished checkpoint; use as a context manager.

    `key` identifies what is written: work under another key is thrown away. `files` is where the
    finished files are built.
    """

    output: Path
    key: str
    shards: Sequence[Shard]
    done: set[str] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        """Where everything lies until the rename."""
        return self.output.parent / f".{self.output.name}.partial"

    @property
    def files(self) -> Path:
        """The checkpoint folder to be."""
        return self.folder / "checkpoint"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = sum(shard.nbytes for shard in self.shards)
        with ExitStack() as stack, disk_errors(self.folder, needed):
            self._take_lock(stack.enter_context((self.folder / "lock").open("w")))
            self._journal = stack.enter_context(self._resume())
            self._shards = {
                shard.filename: stack.enter_context(self._open_shard(shard))
                for shard in self.shards
            }
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def _take_lock(self, lock: IO[str]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                what="output folder",
                name=str(self.output),
                reason="another process is writing it",
                remedy="wait for it, or choose another folder",
            ) from error

    def _resume(self) -> IO[str]:
        path = self.folder / "journal"
        lines = path.read_text().split("\n") if path.is_file() else []
        if lines[:1] == [self.key] and self.files.is_dir():
            self.done = set(lines[1:-1])
            path.write_text("\n".join([self.key, *sorted(self.done), ""]))
        else:
            shutil.rmtree(self.files, ignore_errors=True)
            self.files.mkdir()
            path.write_text(f"{self.key}\n")
        return path.open("a")

    def _open_shard(self, shard: Shard) -> IO[bytes]:
        path = self.files / shard.filename
        file = path.open("r+b" if path.exists() else "w+b")
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, shard.nbytes)
        file.truncate(shard.nbytes)
        file.write(shard.header)
        file.flush()
        return file

    def write(self, filename: str, offset: int, data: bytes | memoryview) -> None:
        """Put `data` at its place in the file `filename`."""
        file = self._shards[filename]
        file.seek(offset)
        file.write(data)

    def finish(self, filename: str, name: str) -> None:
        """Record that `name` is written whole; it is not asked for again."""
        file = self._shards[filename]
        file.flush()
        os.fsync(file.fileno())
        self._journal.write(f"{name}\n")
        self._journal.flush()
        self.done.add(name)

    def publish(self) -> None:
        """Make the finished folder appear under its name at once, whole."""
        for path in sorted(self.files.iterdir()):
            _sync(path)
        _sync(self.files)
        try:
            self.files.rename(self.output)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise output_exists(self.output) from error
        _sync(self.output.parent)
        shutil.rmtree(self.folder)


def clear_published(parent: Path) -> None:
    """Remove what writers left in `parent` that were killed between their rename and their end.

    Such a folder has a journal, no checkpoint any more, and nobody holds its lock.
    """
    for folder in parent.glob(".*.partial"):
        if (folder / "checkpoint").exists() or not (folder / "journal").exists():
            continue
        with suppress(OSError), (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


def output_exists(output: Path) -> ConflictError:
    """Return the error for an output that is there already."""
    return ConflictError(
        what="output folder",
        name=str(output),
        reason="it exists already and is never overwritten",
        remedy="remove it or choose another folder",
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
