"""Readers ahead of compute: threads, a bounded pool of buffers, sums added in order.

Reader threads take the pieces of the files in the order in which they lie there and hand segments
to the compute threads; reads, hashes and kernels all release the GIL. A reader waits when every
buffer is in use, so memory does not depend on the model.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from bitbudget.app.core.errors import BitbudgetError
from bitbudget.workers.native.arrays import Array
from bitbudget.workers.streaming.decode import decode
from bitbudget.workers.streaming.digest import segment_digest
from bitbudget.workers.streaming.files import Buffer
from bitbudget.workers.streaming.reading import Job, Piece, pieces_of
from bitbudget.workers.streaming.store import ResultStore
from bitbudget.workers.streaming.tensors import Segment, TensorTask
from bitbudget.workers.sweep.kernel import SegmentSums, sweep_segment
from bitbudget.workers.sweep.plan import SweepPlan
from bitbudget.workers.sweep.weight_errors import WeightErrors

__all__ = ["FileHashed", "Finished", "Pipeline", "Read"]

READERS: Final = 2
SPARE_BUFFERS: Final = 2
_WAIT_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Read:
    """Some bytes have been read, of a tensor or of what lies between."""

    path: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A tensor was read whole. `known` is its result where the digest of its bytes has one."""

    task: TensorTask
    plan: SweepPlan
    digest: str
    head: str
    sums: SegmentSums
    known: WeightErrors | None = None


@dataclass(frozen=True, slots=True)
class FileHashed:
    """The SHA-256 of a whole file is known."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class _Again:
    """A tensor began like a known one and is another."""

    job: Job


_Event = Read | Finished | FileHashed | _Again | BaseException


class StoppedError(BitbudgetError):
    """Work was handed to a pipeline that was stopped."""

    template = "The pipeline was stopped."


class _Lent:
    """A buffer that goes back to the pool when the last of its users is done with it."""

    def __init__(self, buffer: Buffer, users: int, pool: queue.Queue[Buffer]) -> None:
        self._buffer, self._users, self._pool = buffer, users, pool
        self._lock = threading.Lock()

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            is_free = self._users == 0
        if is_free:
            self._pool.put(self._buffer)


class Pipeline:
    """Reads and sweeps the tensors it is given; `run` yields what happens, in any order.

    A tensor whose first segment is that of a known one is only hashed: its digest decides at its
    end, and in the rare case that it is another it is read again.
    """

    def __init__(self, store: ResultStore, threads: int) -> None:
        self._store = store
        self._files = store.files
        self._threads = threads
        self._events: queue.Queue[_Event] = queue.Queue()
        self._pieces: Iterator[Piece] = iter(())
        self._buffers: queue.Queue[Buffer] = queue.Queue()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(
        self, tasks: list[tuple[TensorTask, SweepPlan]], whole: Collection[str] = ()
    ) -> Iterator[Read | Finished | FileHashed]:
        """Yield a Read per piece, a Finished per tensor and a FileHashed per file of `whole`.

        The first error is raised.
        """
        jobs = [Job(task, plan, may_be_known=True) for task, plan in tasks]
        again: list[Job] = []
        for event in self._pass(jobs, whole):
            if isinstance(event, _Again):
                again.append(Job(event.job.task, event.job.plan, may_be_known=False))
                yield Read(event.job.task.path, -event.job.task.nbytes)
            else:
                yield event
        if again:
            yield from (event for event in self._pass(again) if not isinstance(event, _Again))

    def _pass(
        self, jobs: list[Job], whole: Collection[str] = ()
    ) -> Iterator[Read | Finished | FileHashed | _Again]:
        pieces = pieces_of(jobs, whole, self._files)
        remaining = len(jobs) + len(whole)
        for job in jobs:
            if not job.segments:
                self._finish(job)
        self._prepare(pieces)
        readers = ThreadPoolExecutor(READERS, "bitbudget-read")
        computers = ThreadPoolExecutor(self._threads, "bitbudget-sweep")
        try:
            for _ in range(READERS):
                readers.submit(self._guarded, self._read_all, computers)
            while remaining:
                event = self._events.get()
                if isinstance(event, BaseException):
                    raise event
                remaining -= not isinstance(event, Read)
                yield event
        finally:
            self._stop.set()
            readers.shutdown(wait=True, cancel_futures=True)
            computers.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, pieces: list[Piece]) -> None:
        self._stop.clear()
        self._pieces = iter(pieces)
        largest = max((piece.span.nbytes for piece in pieces), default=0)
        self._buffers = queue.Queue()
        for _ in range(self._threads + READERS + SPARE_BUFFERS):
            self._buffers.put(Buffer(largest))

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._events.put(error)

    def _read_all(self, computers: ThreadPoolExecutor) -> None:
        while True:
            buffer = self._take_buffer()  # first, so that every piece that is taken will be read
            with self._lock:
                piece = next(self._pieces, None)
            if piece is None:
                self._buffers.put(buffer)
                return
            self._read(piece, buffer, computers)

    def _take_buffer(self) -> Buffer:
        while not self._stop.is_set():
            try:
                return self._buffers.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                continue
        raise StoppedError

    def _read(self, piece: Piece, buffer: Buffer, computers: ThreadPoolExecutor) -> None:
        raw = self._files.read(piece.span, buffer)
        users = (piece.job is not None) + (piece.file is not None)
        lent = _Lent(buffer, users, self._buffers)
        path = piece.span.file if piece.job is None else piece.job.task.path
        if piece.job is not None and piece.segment is not None:
            work = (self._compute, piece.job, piece.segment, raw, lent)
            computers.submit(self._guarded, *work)
        self._events.put(Read(path, piece.span.nbytes))
        if piece.file is not None:
            sha256 = piece.file.add(piece.index, raw, lent.release)
            if sha256 is not None:
                self._files.check_unchanged(piece.span)
                self._events.put(FileHashed(piece.file.name, sha256))

    def _compute(self, job: Job, segment: Segment, raw: Array, lent: _Lent) -> None:
        digest = segment_digest(raw)
        if job.may_be_known and segment.index == 0:
            job.head = digest.hex()
            job.only_hashed = self._store.knows_head(job.head, job.plan)
        sums = None
        if not job.only_hashed:
            weights = decode(raw, segment.span.dtype, job.task.dtype)
            sums = sweep_segment(weights, job.plan, segment.start)
        lent.release()
        if job.add(segment.index, digest, sums):
            self._finish(job)

    def _finish(self, job: Job) -> None:
        for source in {source.file: source for source in job.task.sources}.values():
            self._files.check_unchanged(source)
        known = None if job.is_measured else self._store.with_digest(job.digest, job.plan)
        if known is None and not job.is_measured:
            self._events.put(_Again(job))
            return
        head = job.head or (job.digests[0].hex() if job.segments else "")
        self._events.put(Finished(job.task, job.plan, job.digest, head, job.total, known))
