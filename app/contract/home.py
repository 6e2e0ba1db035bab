"""The folder of state and caches, BITBUDGET_HOME: what lies where, and what may be let go."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from bitbudget.app.core.canonical import sha256_of

__all__ = ["Folder", "Home"]

_MANIFEST: Final = "manifest.json"


class Folder(Enum):
    """A folder under BITBUDGET_HOME: its name, and whether it is a cache.

    The entries of a cache are made or downloaded again when they are needed; `gc` releases those
    that were not used for long. Everything else is kept.
    """

    ANSWERS = ("answers", False)
    ARTIFACTS = ("artifacts", False)
    CHECKPOINTS = ("checkpoints", False)
    DIGESTS = ("digests", False)
    EVALUATIONS = ("evaluations", True)
    HUB = ("hub", True)
    IMPORTED = ("imported", False)
    INCOMING = ("incoming", True)
    MANIFESTS = ("manifests", False)
    MEASUREMENTS = ("measurements", False)
    MODELS = ("models", False)
    REFERENCES = ("references", True)
    RIVALS = ("rivals", True)
    ROTATED = ("rotated", True)
    SCRATCH = ("scratch", True)
    SPEED = ("speed", False)
    STATISTICS = ("statistics", True)
    TRACES = ("traces", True)
    UNFINISHED = ("unfinished", True)

    def __init__(self, directory: str, is_cache: bool) -> None:  # noqa: FBT001 - a member is a tuple
        self.directory = directory
        self.is_cache = is_cache

    def under(self, home: Path) -> Path:
        """Return the folder under `home`."""
        return home / self.directory


@dataclass(frozen=True, slots=True)
class Home:
    """BITBUDGET_HOME as the steps see it; every entry is named by the digest of what it is for."""

    folder: Path

    def at(self, folder: Folder) -> Path:
        """Return where one of the folders is."""
        return folder.under(self.folder)

    @property
    def digests(self) -> Path:
        """Digests of weight files, by path, size and time of change."""
        return self.at(Folder.DIGESTS)

    @property
    def tensors(self) -> Path:
        """The SQLite file of what is known of single tensors."""
        return self.at(Folder.MEASUREMENTS) / "tensors.sqlite3"

    def model(self, digest: str) -> Path:
        """Folder of what is known of a model."""
        return self.at(Folder.MODELS) / digest

    def measurement(self, key: str) -> Path:
        """Folder of one measurement, finished or not."""
        return self.at(Folder.MEASUREMENTS) / key

    def imported(self, key: str) -> Path:
        """The file of a measurement with this key that somebody else made."""
        return self.at(Folder.IMPORTED) / key / "measurement.json"

    @property
    def scratch(self) -> Path:
        """Files that a running step needs and deletes."""
        return self.at(Folder.SCRATCH)

    def reference(self, digest: str) -> Path:
        """Folder of what the model with these weights wrote and predicts."""
        return self.at(Folder.REFERENCES) / digest

    def answer(self, key: str) -> Path:
        """The manifest that answered a request on certain curves."""
        return self.at(Folder.ANSWERS) / f"{key}.json"

    def manifest(self, sha256: str) -> Path:
        """Folder of one manifest and what was found out about its checkpoint."""
        return self.at(Folder.MANIFESTS) / sha256

    def evaluation(self, key: str) -> Path:
        """Folder of one comparison of a checkpoint with its original."""
        return self.at(Folder.EVALUATIONS) / key

    def unfinished(self, output: Path) -> Path:
        """Mark that a run of ours is the one that makes `output`."""
        return self.at(Folder.UNFINISHED) / sha256_of(str(output.resolve()).encode())

    def finished_checkpoint(self, sha256: str) -> Path | None:
        """Return the folder of the checkpoint that a manifest describes, None where none is."""
        for path in self.at(Folder.CHECKPOINTS).glob(f"*-{sha256[:12]}/{_MANIFEST}"):
            if sha256_of(path.read_bytes()) == sha256:
                return path.parent
        return None

    def checkpoint(self, name: str, sha256: str) -> Path:
        """Where the checkpoint of a manifest goes unless the user says otherwise."""
        return self.at(Folder.CHECKPOINTS) / f"{name}-{sha256[:12]}"
