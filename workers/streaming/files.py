"""Read spans of weight files, and notice when a file is not what it was."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from app.core.errors import BitbudgetError, InvalidModelError
from workers.models.headers import TensorRef
from workers.native.arrays import Array
from workers.streaming.tensors import Span

__all__ = ["FileStamp", "ReadError", "SourceFiles"]

READ_AHEAD_BYTES: Final = 64 << 20
"""Bytes that the system is asked to fetch beyond what is being read."""


class ReadError(BitbudgetError):
    """{file}: {nbytes} bytes at offset {offset} cannot be read ({reason}); {remedy}."""

    def __init__(self, *, file: str, nbytes: int, offset: int, reason: str) -> None:
        super().__init__(
            file=file,
            nbytes=nbytes,
            offset=offset,
            reason=reason,
            remedy="check the disk, then run again: finished tensors are not measured again",
        )


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells two versions of a file apart without reading it."""

    path: str
    device: int
    inode: int
    nbytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Read the stamp of the file that is at `path` now."""
        status = path.stat()
        return cls(
            str(path.resolve()),
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
        )


@dataclass
class SourceFiles:
    """The open files of a checkpoint folder; threads share it."""

    folder: Path
    _open: dict[str, tuple[int, FileStamp]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def stamp(self, name: str) -> FileStamp:
        """Return the stamp that `name` had when it was opened."""
        return self._file(name)[1]

    def _file(self, name: str) -> tuple[int, FileStamp]:
        with self._lock:
            if name not in self._open:
                path = self.folder / name
                try:
                    descriptor = os.open(path, os.O_RDONLY)
                    self._open[name] = (descriptor, FileStamp.of(path))
                except OSError as error:
                    reason = error.strerror or str(error)
                    raise ReadError(file=name, nbytes=0, offset=0, reason=reason) from error
            return self._open[name]

    def read(self, span: Span, into: Array) -> None:
        """Fill `into`, uint8 of the span's size, and ask the system for what follows.

        Raises InvalidModelError when the file ends early and ReadError when the disk fails.
        """
        descriptor, _ = self._file(span.file)
        view = into.data
        done = 0
        while done < span.nbytes:
            try:
                count = os.preadv(descriptor, [view[done:]], span.offset + done)
            except OSError as error:
                raise ReadError(
                    file=f"{span.file}: {span.name}",
                    nbytes=span.nbytes - done,
                    offset=span.offset + done,
                    reason=error.strerror or str(error),
                ) from error
            if count == 0:
                raise self._changed(span, f"the end of the file {span.nbytes - done} bytes early")
            done += count
        if hasattr(os, "posix_fadvise"):
            follows = span.offset + span.nbytes
            os.posix_fadvise(descriptor, follows, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    def check_unchanged(self, span: Span | TensorRef) -> None:
        """Raise InvalidModelError when the span's file is no longer the one that was opened."""
        try:
            now = FileStamp.of(self.folder / span.file)
        except OSError as error:
            raise self._changed(span, f"no file any more ({error.strerror})") from error
        if now != self.stamp(span.file):
            raise self._changed(span, "a file that changed while it was read")

    def _changed(self, span: Span | TensorRef, found: str) -> InvalidModelError:
        return InvalidModelError(
            where=f"{span.file}: {span.name}",
            found=found,
            expected=f"{span.nbytes} bytes at offset {span.offset} of an unchanging file",
            remedy="wait until the download is complete or fetch the file again, then run again",
        )
