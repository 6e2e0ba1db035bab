"""Reads that go past the system's page cache, where the system has them (Linux).

A cold file read through the cache costs a copy and the upkeep of its pages: 0.1 to 1.5 CPU-seconds
per GB here, against 0.06. A file that is in the cache already is read from there, so what is
resident has to be known; `mincore` tells without starting to read.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitbudget.workers.native.arrays import Array

__all__ = ["ALIGNMENT", "Residency", "open_direct"]

ALIGNMENT: Final = 4096
"""What offsets, sizes and addresses of unbuffered reads are multiples of."""

_PROBES: Final = 8


def open_direct(path: Path) -> int | None:
    """Open a file for unbuffered reads; None where its file system has none."""
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return None
    try:
        return os.open(path, os.O_RDONLY | flag)
    except OSError:
        return None


@functools.cache
def _mincore() -> Any:
    return getattr(ctypes.CDLL(None), "mincore", None) if hasattr(os, "O_DIRECT") else None


@dataclass(frozen=True, slots=True)
class Residency:
    """A mapping of a file that is never read, only asked about."""

    mapped: Array

    @classmethod
    def of(cls, descriptor: int, nbytes: int) -> Residency | None:
        """Return what tells of an open file of `nbytes`; None where the system does not."""
        if not nbytes or _mincore() is None:
            return None
        mapped = mmap.mmap(descriptor, nbytes, prot=mmap.PROT_READ)
        return cls(np.frombuffer(mapped, np.uint8))

    def has(self, offset: int, nbytes: int) -> bool:
        """Whether a few pages of the span, the first and the last among them, are in memory."""
        end = max(offset, offset + nbytes - 1)
        return all(
            self._has_page(offset + (end - offset) * probe // _PROBES)
            for probe in range(_PROBES + 1)
        )

    def _has_page(self, position: int) -> bool:
        page = position // mmap.PAGESIZE * mmap.PAGESIZE
        state = ctypes.c_ubyte(0)
        address = ctypes.c_void_p(self.mapped.ctypes.data + page)
        failed = _mincore()(address, ctypes.c_size_t(1), ctypes.byref(state))
        return not failed and bool(state.value & 1)
