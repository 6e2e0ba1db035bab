"""The emulator's machine from Python: guarded buffers and launches."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.metal_emulator.toolchain import machine

__all__ = ["THREADGROUP_MEMORY_BYTES", "Buffer", "EmulatorError", "Statistics", "launch"]

THREADGROUP_MEMORY_BYTES = 32768
Array = np.ndarray[Any, np.dtype[Any]]


class EmulatorError(Exception):
    """The kernel did what a GPU leaves undefined: the message says what and where."""


class _Launch(ctypes.Structure):
    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("buffers", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("threadgroup", ctypes.c_uint32 * 3),
        ("order", ctypes.c_uint32),
        ("memory_limit", ctypes.c_uint32),
        ("memory_used", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("switches", ctypes.c_uint64),
        ("operations", ctypes.c_uint64),
        ("barriers", ctypes.c_uint64),
        ("error", ctypes.c_char * 512),
    )


@dataclass(frozen=True)
class Statistics:
    """What one launch did: threadgroup memory in bytes, SIMD-group operations, barriers."""

    threadgroup_bytes: int
    operations: int
    barriers: int


class Buffer:
    """Device memory that ends at an unreadable page and starts out as 0xff bytes."""

    def __init__(self, nbytes: int, alignment: int) -> None:
        library = machine()
        library.emu_buffer_new.restype = ctypes.c_void_p
        library.emu_buffer_new.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
        for name in ("emu_buffer_read", "emu_buffer_written"):
            getattr(library, name).restype = ctypes.c_uint64
            getattr(library, name).argtypes = [ctypes.c_void_p]
        self._library = library
        self.nbytes = nbytes
        self.address: int = library.emu_buffer_new(nbytes, alignment)

    @classmethod
    def holding(cls, array: Array) -> Buffer:
        """Return a buffer with a copy of `array`."""
        buffer = cls(array.nbytes, max(1, min(16, array.itemsize)))
        buffer.array(array.shape, array.dtype)[...] = array
        return buffer

    def array(self, shape: Sequence[int], dtype: Any) -> Array:
        """Return a view of the contents."""
        memory = (ctypes.c_uint8 * self.nbytes).from_address(self.address)
        count = int(np.prod(shape, dtype=np.int64))
        values: Array = np.ctypeslib.as_array(memory).view(dtype)[:count].reshape(shape)
        return values

    @property
    def is_intact(self) -> bool:
        """Whether nothing was written beside the buffer's own bytes."""
        return bool(self._library.emu_buffer_intact(ctypes.c_void_p(self.address)))

    @property
    def bytes_read(self) -> int:
        """Bytes loaded by counting kernels."""
        return int(self._library.emu_buffer_read(self.address))

    @property
    def bytes_written(self) -> int:
        """Bytes stored by counting kernels."""
        return int(self._library.emu_buffer_written(self.address))

    def free(self) -> None:
        """Give the memory back."""
        self._library.emu_buffer_free(ctypes.c_void_p(self.address))


@contextlib.contextmanager
def released(buffers: list[Buffer]) -> Iterator[list[Buffer]]:
    """Free `buffers`, which may grow meanwhile, at the end."""
    try:
        yield buffers
    finally:
        for buffer in buffers:
            buffer.free()


def launch(
    library: Path,
    buffers: Sequence[Buffer],
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
    order: int = 0,
) -> Statistics:
    """Run the kernel in `library`; EmulatorError says what went wrong, and in which thread."""
    addresses = (ctypes.c_uint64 * max(1, len(buffers)))(*[b.address for b in buffers])
    kernel = ctypes.CDLL(str(library))
    request = _Launch(
        entry=ctypes.cast(kernel.emu_entry, ctypes.c_void_p).value,
        buffers=ctypes.addressof(addresses),
        grid=(ctypes.c_uint32 * 3)(*grid),
        threadgroup=(ctypes.c_uint32 * 3)(*threadgroup),
        order=order,
        memory_limit=THREADGROUP_MEMORY_BYTES,
    )
    if machine().emu_launch(ctypes.byref(request)):
        raise EmulatorError(_name_buffer(request.error.decode(), buffers))
    for index, buffer in enumerate(buffers):
        if not buffer.is_intact:
            raise EmulatorError(f"buffer {index}: written outside its {buffer.nbytes} bytes")
    return Statistics(request.memory_used, request.operations, request.barriers)


def _name_buffer(message: str, buffers: Sequence[Buffer]) -> str:
    match = re.search(r"address 0x([0-9a-f]+)", message)
    for index, buffer in enumerate(buffers):
        page = 4096
        offset = int(match[1], 16) - buffer.address if match else -page - 1
        if -page - buffer.nbytes <= offset < buffer.nbytes + page:
            return f"{message}: buffer {index} {offset:+d} bytes, size {buffer.nbytes}"
    return message
