"""A disk that can be full for a while: a small file system of its own, else a limit on files."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

SIZE_BYTES = 256 * 2**20
_BLOCK_BYTES = 4096
_BALLAST = ".ballast"
_MOUNT, _UMOUNT = "/bin/mount", "/bin/umount"


@dataclass(frozen=True)
class MountedDisk:
    """A file system in memory, mounted on `folder`: what is written fails with ENOSPC."""

    folder: Path

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave no room on it for as long as the block lasts."""
        ballast = self.folder / _BALLAST
        try:
            with ballast.open("wb") as file, contextlib.suppress(OSError):
                while free := os.statvfs(self.folder).f_bavail * _BLOCK_BYTES:
                    os.posix_fallocate(file.fileno(), ballast.stat().st_size, free)
            yield
        finally:
            ballast.unlink()


@dataclass(frozen=True)
class LimitedDisk:
    """Processes that may not write to files (EFBIG), where nothing may be mounted."""

    process_id: Callable[[], int]

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Let nothing be written for as long as the block lasts."""
        self._limit(0)
        try:
            yield
        finally:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, limit_bytes: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process_id())
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    hard = one.rlimit(psutil.RLIMIT_FSIZE)[1]
                    soft = limit_bytes if hard < 0 else min(limit_bytes, hard)
                    one.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def disk(folder: Path, process_id: Callable[[], int]) -> Iterator[MountedDisk | LimitedDisk | None]:
    """Give the disk of a process whose files lie in `folder`; None where there is no way to."""
    folder.mkdir(parents=True)
    if not sys.platform.startswith("linux"):
        yield None
    elif _mount(folder):
        try:
            yield MountedDisk(folder)
        finally:
            subprocess.run([_UMOUNT, "--lazy", str(folder)], check=True)
    else:
        yield LimitedDisk(process_id)


def _mount(folder: Path) -> bool:
    command = [_MOUNT, "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
