"""What is read of the files, in the order in which it lies there."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.streaming.digest import digest_of_segments
from bitbudget.workers.streaming.files import SourceFiles
from bitbudget.workers.streaming.tensors import Segment, Span, TensorTask
from bitbudget.workers.streaming.whole import WholeFile
from bitbudget.workers.sweep.kernel import SegmentSums
from bitbudget.workers.sweep.plan import SweepPlan

__all__ = ["Job", "Piece", "pieces_of"]

GAP_BYTES: Final = 8 << 20
"""Most bytes that are read at once where nothing is measured."""


@dataclass
class Job:
    """A tensor under way. `only_hashed` says that it begins like one whose result is known."""

    task: TensorTask
    plan: SweepPlan
    may_be_known: bool
    segments: int = 0
    head: str = ""
    only_hashed: bool = False
    total: SegmentSums = field(default_factory=SegmentSums)
    digests: dict[int, bytes] = field(default_factory=dict)
    _unmeasured: int = 0
    _added: int = 0
    _waiting: dict[int, SegmentSums | None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, index: int, digest: bytes, sums: SegmentSums | None) -> bool:
        """Add a segment, once all before it are added; whether that was the last.

        Without `sums` it was only hashed.
        """
        with self._lock:
            self.digests[index] = digest
            self._waiting[index] = sums
            while self._added in self._waiting:
                following = self._waiting.pop(self._added)
                self._added += 1
                if following is None:
                    self._unmeasured += 1
                else:
                    self.total.add(following)
            return self._added == self.segments

    @property
    def is_measured(self) -> bool:
        """Whether the sums of all segments were added."""
        return not self._unmeasured

    @property
    def digest(self) -> str:
        """The digest of the tensor, when all segments are added."""
        return digest_of_segments(self.digests[index] for index in range(self.segments))


@dataclass(frozen=True, slots=True)
class Piece:
    """A span to read: a segment of a tensor, the next piece of a file that is hashed, or both."""

    span: Span
    job: Job | None = None
    segment: Segment | None = None
    file: WholeFile | None = None
    index: int = 0


def pieces_of(jobs: Iterable[Job], whole: Collection[str], files: SourceFiles) -> list[Piece]:
    """Return what to read for `jobs` and for the digests of the files `whole`."""
    by_file: dict[str, list[tuple[Span, Job, Segment]]] = defaultdict(list)
    for name in whole:
        by_file[name] = []
    for job in jobs:
        for segment in job.task.segments(job.plan):
            job.segments += 1
            by_file[segment.span.file].append((segment.span, job, segment))
    pieces: list[Piece] = []
    for name, wanted in by_file.items():
        wanted.sort(key=lambda entry: entry[0].offset)
        if name in whole:
            pieces.extend(_hashed(name, wanted, files.stamp(name).nbytes))
        else:
            pieces.extend(Piece(span, job, segment) for span, job, segment in wanted)
    return pieces


def _hashed(name: str, wanted: list[tuple[Span, Job, Segment]], nbytes: int) -> Iterator[Piece]:
    """Yield the wanted spans and all that lies between, in order."""
    file, position = WholeFile(name, 0), 0

    def numbered(span: Span, job: Job | None = None, segment: Segment | None = None) -> Piece:
        file.pieces += 1
        return Piece(span, job, segment, file, file.pieces - 1)

    for span, job, segment in wanted:
        yield from map(numbered, _gaps(name, position, span.offset))
        if span.offset < position:  # the same tensor once more
            yield Piece(span, job, segment)
            continue
        yield numbered(span, job, segment)
        position = span.offset + span.nbytes
    yield from map(numbered, _gaps(name, position, nbytes))


def _gaps(name: str, start: int, stop: int) -> Iterator[Span]:
    for offset in range(start, stop, GAP_BYTES):
        yield Span(name, "between tensors", offset, min(GAP_BYTES, stop - offset), Dtype.U8)
