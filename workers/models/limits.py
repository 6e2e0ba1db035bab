"""Limits on a process that reads what others give: memory, processor time, size of files."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from typing import Final

import psutil

__all__ = ["limit_reading"]

_MEMORY_BYTES: Final = 2**30
"""Over what the process has when it begins; headers of the largest models take a tenth of it."""
_CPU_SECONDS: Final = 60
_FILE_BYTES: Final = 256 * 2**20
_WATCH_SECONDS: Final = 0.05


def limit_reading() -> None:
    """End this process, or let what it asks for fail, where reading headers takes too much.

    Linux counts private memory itself (RLIMIT_DATA) and lets an allocation fail, which is told as
    an error. macOS does not: there a thread looks at what is resident and ends the process.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        most = _private_bytes() + _MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    else:
        threading.Thread(target=_watch, name="memory", daemon=True).start()


def _private_bytes() -> int:
    """Return the private memory that is mapped already: VmData of /proc/self/status, in kB."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - no file of ours
        return next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024


def _watch() -> None:
    process = psutil.Process()
    while process.memory_info().rss < _MEMORY_BYTES:
        time.sleep(_WATCH_SECONDS)
    print(f"more than {_MEMORY_BYTES} bytes of memory for headers", file=sys.stderr)  # noqa: T201
    os._exit(1)
