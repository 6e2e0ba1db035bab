"""Memory that was freed and that the allocator still holds."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

__all__ = ["return_freed_memory"]


def return_freed_memory() -> None:
    """Give the system back what nothing uses, before work that needs much begins.

    Of a freed model of 2 GB glibc keeps 1.5: blocks below its threshold wait in its heaps to be
    used again (`blas.py`). Does nothing where the C library has no `malloc_trim`.
    """
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
