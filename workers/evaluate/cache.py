"""What one original wrote and predicts, kept between steps and runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np

from bitbudget.workers.evaluate.teacher import TeacherBatch
from bitbudget.workers.evaluate.windows import digest

__all__ = ["ReferenceCache"]

_VERSION: Final = 1
"""Raised when what is kept changes its meaning."""
_MOST_BYTES: Final = 1 << 30
"""Of predictions that one original's folder keeps; the oldest go first."""


@dataclass(frozen=True, slots=True)
class ReferenceCache:
    """Rollouts of one original, and its predictions on windows, as files of `folder`.

    The folder is for one digest of weights. Predictions are found by the digest of the windows'
    token ids, so that verification, calibration and every evaluation share one pass.
    """

    folder: Path

    def rollouts(
        self, kind: str, count: int, length: int, seed: int, make: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """Return int32 (count, length): the rollouts of this seed, from `make` where unknown.

        `kind` tells apart what the same weights write with one chat template, another or none.
        """
        path = self.folder / f"rollouts-{_VERSION}-{kind}-{count}-{length}-{seed}.npz"
        if not path.is_file():
            _write(path, {"ids": make()})
        with np.load(path) as data:
            return np.asarray(data["ids"], np.int32)

    def taught(
        self, windows: np.ndarray, make: Callable[[], Sequence[TeacherBatch]]
    ) -> list[TeacherBatch]:
        """Return the original's predictions on `windows` by batch, from `make` where unknown.

        They are kept where they take at most half of the room that the disk has: they can be made
        again, and a job that finds no room for what it must write fails.
        """
        path = self.folder / f"taught-{_VERSION}-{digest(windows)}.npz"
        if path.is_file():
            path.touch()
            return _read(path)
        made = list(make())
        arrays = _arrays(made)
        if self._has_room(sum(array.nbytes for array in arrays.values())):
            with suppress(OSError):
                _write(path, arrays)
                self._trim(path)
        return made

    def _has_room(self, nbytes: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        return 2 * nbytes <= shutil.disk_usage(self.folder).free

    def _trim(self, newest: Path) -> None:
        """Delete predictions, the longest unused first, until they fit."""
        files = [file for file in self.folder.glob("taught-*.npz") if file != newest]
        files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
        total = newest.stat().st_size
        for file in files:
            total += file.stat().st_size
            if total > _MOST_BYTES:
                file.unlink(missing_ok=True)


_NAMES: Final = [field.name for field in fields(TeacherBatch) if field.name != "vocabulary"]


def _arrays(batches: Sequence[TeacherBatch]) -> dict[str, np.ndarray]:
    """Return the arrays of all batches, one below the other, and how many rows each has."""
    present = [name for name in _NAMES if getattr(batches[0], name) is not None]
    arrays = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in present}
    rows = np.array([len(batch.ids) for batch in batches])
    return {**arrays, "rows": rows, "vocabulary": np.array(batches[0].vocabulary)}


def _read(path: Path) -> list[TeacherBatch]:
    with np.load(path) as data:
        arrays = {name: data[name] for name in _NAMES if name in data.files}
        ends, vocabulary = np.cumsum(data["rows"])[:-1], int(data["vocabulary"])
    split = {name: np.split(array, ends) for name, array in arrays.items()}
    count = len(ends) + 1
    return [
        TeacherBatch(**{name: parts[i] for name, parts in split.items()}, vocabulary=vocabulary)
        for i in range(count)
    ]


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(draft, allow_pickle=False, **arrays)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
