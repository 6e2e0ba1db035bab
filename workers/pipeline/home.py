"""The folder of state and caches: what lies where, and how files appear in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bitbudget.app.core.canonical import sha256_of

__all__ = ["Home", "write_whole"]


@dataclass(frozen=True, slots=True)
class Home:
    """BITBUDGET_HOME as the steps see it; every entry is named by the digest of what it is for."""

    folder: Path

    @property
    def digests(self) -> Path:
        """Digests of weight files, by path, size and time of change."""
        return self.folder / "digests"

    @property
    def tensors(self) -> Path:
        """The SQLite file of what is known of single tensors."""
        return self.folder / "measurements" / "tensors.sqlite3"

    def model(self, digest: str) -> Path:
        """Folder of what is known of a model."""
        return self.folder / "models" / digest

    def measurement(self, key: str) -> Path:
        """Folder of one measurement, finished or not."""
        return self.folder / "measurements" / key

    @property
    def scratch(self) -> Path:
        """Files that a running step needs and deletes."""
        return self.folder / "scratch"

    def reference(self, digest: str) -> Path:
        """Folder of what the model with these weights wrote and predicts."""
        return self.folder / "references" / digest

    def answer(self, key: str) -> Path:
        """The manifest that answered a request on certain curves."""
        return self.folder / "answers" / f"{key}.json"

    def manifest(self, sha256: str) -> Path:
        """Folder of one manifest and what was found out about its checkpoint."""
        return self.folder / "manifests" / sha256

    def evaluation(self, key: str) -> Path:
        """Folder of one comparison of a checkpoint with its original."""
        return self.folder / "evaluations" / key

    def unfinished(self, output: Path) -> Path:
        """Mark that a run of ours is the one that makes `output`."""
        return self.folder / "unfinished" / sha256_of(str(output.resolve()).encode())

    def checkpoint(self, name: str, sha256: str) -> Path:
        """Where the checkpoint of a manifest goes unless the user says otherwise."""
        return self.folder / "checkpoints" / f"{name}-{sha256[:12]}"


def write_whole(path: Path, data: bytes) -> Path:
    """Write `path` so that it is never seen half-written; return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
