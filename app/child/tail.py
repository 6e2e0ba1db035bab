"""The last lines of a stream, however much it holds."""

from __future__ import annotations

from typing import Final

__all__ = ["Tail"]

_BYTES: Final = 1 << 14
_CHARACTERS: Final = 2000


class Tail:
    """Keeps the end of what is added.

    tail = Tail()
    tail.add(b"...")
    tail.text()
    """

    def __init__(self) -> None:
        self._data = b""

    def add(self, data: bytes) -> None:
        """Keep `data`, and of what came before as much as there is room for."""
        self._data = (self._data + data)[-_BYTES:]

    def text(self) -> str:
        """Return the last 2,000 characters, without control characters but line breaks."""
        text = self._data.decode(errors="replace").replace("\r", "\n")
        clean = "".join(c for c in text if c.isprintable() or c == "\n")
        return clean[-_CHARACTERS:].strip()
