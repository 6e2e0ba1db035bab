"""Results kept by the digest of a tensor's bytes, so that nothing is measured twice.

One SQLite file, in write-ahead mode: a process may be killed at any moment, and several may share
it. Three things are remembered: results by digest, digests by the place and stamp of the bytes, and
the digests of first segments, which tell whether a result is worth looking for before the whole
tensor is read.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.formats import parse_format
from bitbudget.workers.files.headers import TensorRef
from bitbudget.workers.streaming.files import SourceFiles
from bitbudget.workers.sweep.plan import SweepPlan
from bitbudget.workers.sweep.weight_errors import SWEEP_VERSION, WeightErrors

__all__ = ["ResultCache", "place_of", "plan_key"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS results (digest TEXT, plan TEXT, head TEXT, result TEXT NOT NULL,
    PRIMARY KEY (digest, plan)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS heads ON results (head, plan);
CREATE TABLE IF NOT EXISTS places (place TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;
"""
_BUSY_SECONDS: Final = 60.0


def plan_key(plan: SweepPlan) -> str:
    """Return what a result depends on besides the bytes."""
    return sha256_of(canonical_json({**plan.key(), "version": SWEEP_VERSION}))


def place_of(tensors: Iterable[TensorRef], files: SourceFiles, what: str = "") -> str:
    """Return where the bytes of `tensors` lie and how their files are stamped, as one digest.

    `what` tells apart several things that are made of the same bytes.
    """
    sources = [(files.stamp(s.file), s.offset, s.nbytes) for s in tensors]
    rows = [
        [t.path, t.device, t.inode, t.nbytes, t.changed_ns, offset, nbytes]
        for t, offset, nbytes in sources
    ]
    return sha256_of(canonical_json([what, rows] if what else rows))


class ResultCache:
    """The results in one SQLite file; threads share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def at_place(self, place: str, plan: str) -> tuple[str, WeightErrors] | None:
        """Return digest and result of bytes that were read before and have not been touched."""
        row = self._row("SELECT digest FROM places WHERE place = ?", place)
        if row is None:
            return None
        found = self.with_digest(row[0], plan)
        return None if found is None else (row[0], found)

    def with_digest(self, digest: str, plan: str) -> WeightErrors | None:
        """Return the result of bytes with this digest."""
        row = self._row("SELECT result FROM results WHERE digest = ? AND plan = ?", digest, plan)
        return None if row is None else _from_json(row[0])

    def knows_head(self, head: str, plan: str) -> bool:
        """Whether some result belongs to a tensor that begins with this segment."""
        query = "SELECT 1 FROM results WHERE head = ? AND plan = ? LIMIT 1"
        return self._row(query, head, plan) is not None

    def store(self, place: str, digest: str, head: str, plan: str, result: WeightErrors) -> None:
        """Remember a result; it survives the process being killed."""
        text = canonical_json(_to_json(result)).decode()
        with self._lock, self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?)", (digest, plan, head, text)
            )
            self._database.execute("INSERT OR REPLACE INTO places VALUES (?, ?)", (place, digest))

    def _row(self, query: str, *values: str) -> tuple[str, ...] | None:
        with self._lock:
            row: tuple[str, ...] | None = self._database.execute(query, values).fetchone()
        return row


def _to_json(result: WeightErrors) -> dict[str, dict[str, float]]:
    return {
        "t2": {str(format_): value for format_, value in result.t2.items()},
        "features": dict(result.features),
        "relative": {str(format_): value for format_, value in result.t2_relative_error.items()},
    }


def _from_json(text: str) -> WeightErrors:
    found = json.loads(text)
    return WeightErrors(
        t2={parse_format(name): value for name, value in found["t2"].items()},
        features=found["features"],
        t2_relative_error={parse_format(n): value for n, value in found["relative"].items()},
    )
