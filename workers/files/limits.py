"""Limits on a process that reads what others give: memory, processor time, size of files."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["limit_reading", "reading"]

_MEMORY_BYTES: Final = 2**29
"""Over what the process has when it begins; headers of the largest models take a fifth of it."""
_CPU_SECONDS: Final = 60
_FILE_BYTES: Final = 256 * 2**20
_WATCH_SECONDS: Final = 0.05


def limit_reading() -> None:
    """Limit this process, which reads headers and nothing else, for the rest of its life."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(threading.Event())


@contextmanager
def reading(most_file_bytes: int = _FILE_BYTES) -> Iterator[None]:
    """A block in which a model's files are read and believed in nothing.

    Memory, processor time and the size of files that are written are limited; the system ends a
    process that computes for longer. Where a weight file is downloaded meanwhile,
    `most_file_bytes` is its size.

    Afterwards, when the model's layers are known to be those of its files, it is as before.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    before_time = resource.getrlimit(resource.RLIMIT_CPU)
    before_size = resource.getrlimit(resource.RLIMIT_FSIZE)
    is_over = threading.Event()
    _limit_memory(is_over, hard=before[1])
    _limit_time(before_time)
    _limit_files(before_size, most_file_bytes)
    try:
        yield
    finally:
        is_over.set()
        resource.setrlimit(resource.RLIMIT_DATA, before)
        resource.setrlimit(resource.RLIMIT_CPU, before_time)
        resource.setrlimit(resource.RLIMIT_FSIZE, before_size)


def _limit_files(now: tuple[int, int], most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (_least(most, now), now[1]))


def _least(most: int, now: tuple[int, int]) -> int:
    return min([most, *(limit for limit in now if limit != resource.RLIM_INFINITY)])


def _limit_time(now: tuple[int, int]) -> None:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    most = int(spent.ru_utime + spent.ru_stime) + _CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (_least(most, now), now[1]))


def _limit_memory(is_over: threading.Event, hard: int | None = None) -> None:
    """End this process, or let what it asks for fail, where it takes too much until `is_over`.

    Linux counts private memory itself (RLIMIT_DATA) and lets an allocation fail, which is told as
    an error. macOS does not: there a thread looks at what is resident and ends the process.
    """
    if sys.platform == "linux":
        most = _private_bytes() + _MEMORY_BYTES
        soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
        most = most if soft == resource.RLIM_INFINITY else min(most, soft)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most if hard is None else hard))
    else:
        threading.Thread(target=_watch, args=(is_over,), name="memory", daemon=True).start()


def _private_bytes() -> int:
    """Return the private memory that is mapped already: VmData of /proc/self/status, in kB."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - no file of ours
        return next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024


def _watch(is_over: threading.Event) -> None:
    import psutil  # noqa: PLC0415, of the worker's extra, and Linux does without

    process = psutil.Process()
    most = process.memory_info().rss + _MEMORY_BYTES
    while process.memory_info().rss < most:
        if is_over.wait(_WATCH_SECONDS):
            return
    print(f"more than {_MEMORY_BYTES} bytes of memory for headers", file=sys.stderr)  # noqa: T201
    os._exit(1)
