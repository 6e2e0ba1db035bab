"""Weight files on demand, with at most the shards in use on the disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.sizes import format_size
from bitbudget.workers.hub.client import HubFile
from bitbudget.workers.hub.download import Downloader

__all__ = ["ShardStore"]


class ShardStore:
    """Keeps the weight files of one model within `limit_bytes`, None for all of them.

    A shard that is held stays; of the others the one used longest ago goes first. Holding more at
    once than the limit allows is an error and not a wait, since nobody else would let go.
    """

    def __init__(
        self, downloader: Downloader, files: Sequence[HubFile], limit_bytes: int | None = None
    ) -> None:
        self._downloader = downloader
        self._sizes = {file.name: file.nbytes for file in files}
        self._limit = limit_bytes
        self._held: dict[str, int] = {}
        self._lock = threading.RLock()
        self._check_limit(max(self._sizes.values(), default=0), "the largest shard alone")
        present = (name for name in self._sizes if self._path(name).is_file())
        self._used: OrderedDict[str, None] = OrderedDict((name, None) for name in present)

    def ensure(self, name: str) -> Path:
        """Return the verified shard; it may go when another one is asked for."""
        with self.hold(name) as path:
            return path

    @contextmanager
    def hold(self, name: str) -> Iterator[Path]:
        """Give the verified shard and keep it on the disk until the block ends."""
        with self._lock:
            self._make_room(name)
            path = self._downloader.fetch(name)
            self._used[name] = None
            self._used.move_to_end(name)
            self._held[name] = self._held.get(name, 0) + 1
        try:
            yield path
        finally:
            with self._lock:
                self._held[name] -= 1

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the shards present."""
        return sum(self._sizes[name] for name in self._used)

    def _make_room(self, name: str) -> None:
        if self._limit is None or name in self._used:
            return
        idle = [other for other in self._used if not self._held.get(other)]
        for other in idle:
            if self.bytes_on_disk + self._sizes[name] <= self._limit:
                break
            self._path(other).unlink(missing_ok=True)
            del self._used[other]
        self._check_limit(self.bytes_on_disk + self._sizes[name], "the shards in use together")

    def _check_limit(self, needed: int, what: str) -> None:
        if self._limit is not None and needed > self._limit:
            raise InvalidRequestError(
                where="disk limit",
                found=f"{self._limit} bytes",
                expected=f"at least {needed} ({format_size(needed)}), {what}",
                remedy="raise --disk-limit",
            )

    def _path(self, name: str) -> Path:
        return self._downloader.folder / name
