"""Finished items of a long step, one JSON line each, so that none is done twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


class Journal:
    """A file that only grows; a line cut short by a kill is dropped and done again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        if not self._path.is_file():
            return
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))

    def __iter__(self) -> Iterator[Any]:
        if self._path.is_file():
            for line in self._path.read_bytes().splitlines():
                yield json.loads(line)

    def append(self, value: Any) -> None:
        """Add one item."""
        with self._path.open("ab") as file:
            file.write(json.dumps(value).encode() + b"\n")

    def remove(self) -> None:
        """Forget everything: the step is finished and stored elsewhere."""
        self._path.unlink(missing_ok=True)
