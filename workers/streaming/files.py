"""Read spans of weight files, and notice when a file is not what it was."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from bitbudget.app.core.errors import BitbudgetError, InvalidModelError
from bitbudget.workers.files.headers import TensorRef
from bitbudget.workers.native.arrays import Array
from bitbudget.workers.streaming.direct import ALIGNMENT, Residency, open_direct
from bitbudget.workers.streaming.tensors import Span

__all__ = ["Buffer", "FileStamp", "ReadError", "SourceFiles"]


class ReadError(BitbudgetError):
    """A file of weights cannot be read."""

    template = "{file}: {nbytes} bytes at offset {offset} cannot be read ({reason}); {remedy}."

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


class Buffer:
    """Memory for one span at a time, placed as unbuffered reads need it."""

    def __init__(self, nbytes: int) -> None:
        room = np.empty(nbytes + 3 * ALIGNMENT, np.uint8)
        self.bytes = room[-room.ctypes.data % ALIGNMENT :]

    def holds(self, nbytes: int) -> bool:
        """Whether a span of this size fits, wherever it begins."""
        return self.bytes.size >= nbytes + 2 * ALIGNMENT


@dataclass(frozen=True, slots=True)
class _Open:
    """A file: its descriptor, that of unbuffered reads if there are any, and its stamp."""

    descriptor: int
    direct: int | None
    cached: Residency | None
    stamp: FileStamp

    @classmethod
    def of(cls, path: Path) -> _Open:
        descriptor = os.open(path, os.O_RDONLY)
        stamp = FileStamp.of(path)
        cached = Residency.of(descriptor, stamp.nbytes)
        direct = None if cached is None else open_direct(path)
        return cls(descriptor, direct, cached, stamp)

    def close(self) -> None:
        os.close(self.descriptor)
        if self.direct is not None:
            os.close(self.direct)


@dataclass
class SourceFiles:
    """The open files of a checkpoint folder; threads share it."""

    folder: Path
    _open: dict[str, _Open] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def stamp(self, name: str) -> FileStamp:
        """Return the stamp that `name` had when it was opened."""
        return self._file(name).stamp

    def _file(self, name: str) -> _Open:
        with self._lock:
            if name not in self._open:
                try:
                    self._open[name] = _Open.of(self.folder / name)
                except OSError as error:
                    reason = error.strerror or str(error)
                    raise ReadError(file=name, nbytes=0, offset=0, reason=reason) from error
            return self._open[name]

    def read(self, span: Span, into: Buffer) -> Array:
        """Return the bytes of `span`, which lie in `into`.

        What the system has in memory is copied from there; anything else is fetched past its cache,
        which is quicker and leaves other programs' files in memory.

        Raises InvalidModelError when the file ends early and ReadError when the disk fails.
        """
        file = self._file(span.file)
        if file.direct is None or file.cached is None or file.cached.has(span.offset, span.nbytes):
            return self._read(file.descriptor, span, into, 1)
        try:
            return self._read(file.direct, span, into, ALIGNMENT)
        except ReadError:  # a file system may want another alignment
            return self._read(file.descriptor, span, into, 1)

    def _read(self, descriptor: int, span: Span, into: Buffer, unit: int) -> Array:
        """Read whole units of bytes, of which the span is a part."""
        skipped = span.offset % unit
        needed = skipped + span.nbytes
        view = into.bytes[: -(-needed // unit) * unit].data
        start, done = span.offset - skipped, 0
        while done < needed:
            try:
                count = os.preadv(descriptor, [view[done:]], start + done)
            except OSError as error:
                raise ReadError(
                    file=f"{span.file}: {span.name}",
                    nbytes=needed - done,
                    offset=start + done,
                    reason=error.strerror or str(error),
                ) from error
            done += count
            if done < needed and (count == 0 or done % unit):
                raise self._changed(span, f"the end of the file {needed - done} bytes early")
        return into.bytes[skipped:needed]

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
