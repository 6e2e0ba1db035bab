"""SHA-256 of whole files, taken from pieces that several threads read in any order."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bitbudget.workers.native.arrays import Array

__all__ = ["WholeFile"]


@dataclass
class WholeFile:
    """The digest of one file of `pieces` consecutive pieces."""

    name: str
    pieces: int
    _digest: Any = field(default_factory=hashlib.sha256)
    _waiting: dict[int, tuple[Array, Callable[[], None]]] = field(default_factory=dict)
    _done: int = 0
    _busy: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, index: int, raw: Array, release: Callable[[], None]) -> str | None:
        """Take one piece; `release` is called when its bytes are no longer needed.

        Pieces that are next in order are hashed at once, here or by the thread that is hashing
        already. Return the digest in hex when the last one was.
        """
        with self._lock:
            self._waiting[index] = (raw, release)
            if self._busy:
                return None
            self._busy = True
        while (piece := self._next()) is not None:
            raw, release = piece
            self._digest.update(raw.data)
            release()
        return str(self._digest.hexdigest()) if self._done == self.pieces else None

    def _next(self) -> tuple[Array, Callable[[], None]] | None:
        with self._lock:
            piece = self._waiting.pop(self._done, None)
            self._busy = piece is not None
            self._done += self._busy
            return piece
