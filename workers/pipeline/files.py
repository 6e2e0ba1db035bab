"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes, draft_folder: Path | None = None) -> Path:
    """Write `path` so that it is never seen half-written; return it.

    `draft_folder`, on the same file system, is where a killed process leaves its half: by default
    beside `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = (draft_folder or path.parent) / f".{path.name}.{os.getpid()}"
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
