"""Readers ahead of compute: threads, a bounded pool of buffers, sums added in order.

Reader threads take one tensor each, read it segment by segment, hash it and hand every segment to
the compute threads; `os.preadv`, SHA-256 and the kernels all release the GIL. A reader waits when
every buffer is in use, so memory does not depend on the model.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from app.core.errors import BitbudgetError
from workers.native.arrays import Array
from workers.streaming.decode import decode
from workers.streaming.store import ResultStore
from workers.streaming.tensors import Segment, TensorTask
from workers.sweep.kernel import SegmentSums, sweep_segment
from workers.sweep.measure import WeightErrors
from workers.sweep.plan import SweepPlan

__all__ = ["Finished", "Pipeline", "Read", "default_threads"]

READERS: Final = 2
SPARE_BUFFERS: Final = 2
_WAIT_SECONDS: Final = 0.1


def default_threads() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Read:
    """Some bytes of a tensor have been read."""

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


@dataclass
class _Job:
    """A tensor under way. `expected`, how many sums there will be, is set when all is read.

    One that is only hashed, because it begins like a known one, has none.
    """

    task: TensorTask
    plan: SweepPlan
    digest: Any = field(default_factory=hashlib.sha256)
    head: str = ""
    only_hashed: bool = False
    known: WeightErrors | None = None
    expected: int | None = None
    total: SegmentSums = field(default_factory=SegmentSums)
    added: int = 0
    waiting: dict[int, SegmentSums] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, index: int, sums: SegmentSums) -> bool:
        """Add the sums of a segment once all before it are added; whether that was the last."""
        with self.lock:
            self.waiting[index] = sums
            while self.added in self.waiting:
                self.total.add(self.waiting.pop(self.added))
                self.added += 1
            return self.added == self.expected

    def expect(self, count: int) -> bool:
        """Say how many segments there are; whether all are added already."""
        with self.lock:
            self.expected = count
            return self.added == count

    def finished(self) -> Finished:
        digest = self.digest.hexdigest()
        return Finished(self.task, self.plan, digest, self.head, self.total, self.known)


class StoppedError(BitbudgetError):
    """The pipeline was stopped."""


class Pipeline:
    """Reads and sweeps the tensors it is given; `run` yields what happens, in any order.

    A tensor whose first segment is that of a known one is only hashed: its digest decides at its
    end, and in the rare case that it is another it is read again.
    """

    def __init__(self, store: ResultStore, threads: int) -> None:
        self._store = store
        self._files = store.files
        self._threads = threads
        self._events: queue.Queue[Read | Finished | BaseException] = queue.Queue()
        self._tasks: queue.SimpleQueue[tuple[TensorTask, SweepPlan]] = queue.SimpleQueue()
        self._buffers: queue.Queue[npt.NDArray[np.uint8] | None] = queue.Queue()
        self._stop = threading.Event()

    def run(self, tasks: list[tuple[TensorTask, SweepPlan]]) -> Iterator[Read | Finished]:
        """Yield a Read per segment and a Finished per tensor; the first error is raised."""
        for task in tasks:
            self._tasks.put(task)
        for _ in range(self._threads + READERS + SPARE_BUFFERS):
            self._buffers.put(None)
        readers = ThreadPoolExecutor(READERS, "bitbudget-read")
        computers = ThreadPoolExecutor(self._threads, "bitbudget-sweep")
        try:
            for _ in range(READERS):
                readers.submit(self._guarded, self._read_all, computers)
            remaining = len(tasks)
            while remaining:
                event = self._events.get()
                if isinstance(event, BaseException):
                    raise event
                remaining -= isinstance(event, Finished)
                yield event
        finally:
            self._stop.set()
            readers.shutdown(wait=True, cancel_futures=True)
            computers.shutdown(wait=True, cancel_futures=True)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._events.put(error)

    def _read_all(self, computers: ThreadPoolExecutor) -> None:
        while not self._stop.is_set():
            try:
                task, plan = self._tasks.get_nowait()
            except queue.Empty:
                return
            job = _Job(task, plan)
            if not self._read(job, computers, may_know=True):
                self._read(_Job(task, plan), computers, may_know=False)

    def _read(self, job: _Job, computers: ThreadPoolExecutor, *, may_know: bool) -> bool:
        """Read one tensor; False when it began like a known one and turned out to be another."""
        count = 0
        for segment in job.task.segments(job.plan):
            buffer = self._fill(segment)
            raw = buffer[: segment.nbytes]
            job.digest.update(raw.data)
            if not count:
                job.head = hashlib.sha256(raw.data).hexdigest()
                job.only_hashed = may_know and self._store.knows_head(job.head, job.plan)
            count += 1
            if job.only_hashed:
                self._buffers.put(buffer)
            else:
                computers.submit(self._guarded, self._compute, job, segment, buffer)
            self._events.put(Read(job.task.path, segment.nbytes))
        if job.only_hashed:
            job.known = self._store.with_digest(job.digest.hexdigest(), job.plan)
            if job.known is None:
                self._events.put(Read(job.task.path, -job.task.nbytes))
                return False
        if job.expect(0 if job.only_hashed else count):
            self._finish(job)
        return True

    def _fill(self, segment: Segment) -> npt.NDArray[np.uint8]:
        buffer = self._take_buffer(segment.nbytes)
        position = 0
        for span in segment.spans:
            self._files.read(span, buffer[position : position + span.nbytes])
            position += span.nbytes
        return buffer

    def _take_buffer(self, nbytes: int) -> npt.NDArray[np.uint8]:
        while not self._stop.is_set():
            try:
                buffer = self._buffers.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                continue
            if buffer is None or buffer.size < nbytes:
                return np.empty(nbytes, np.uint8)
            return buffer
        raise StoppedError

    def _compute(self, job: _Job, segment: Segment, buffer: npt.NDArray[np.uint8]) -> None:
        sums = sweep_segment(_decoded(job.task, segment, buffer), job.plan, segment.start)
        self._buffers.put(buffer)
        if job.add(segment.index, sums):
            self._finish(job)

    def _finish(self, job: _Job) -> None:
        for source in {source.file: source for source in job.task.sources}.values():
            self._files.check_unchanged(source)
        self._events.put(job.finished())


def _decoded(task: TensorTask, segment: Segment, buffer: npt.NDArray[np.uint8]) -> Array:
    pieces: list[Array] = []
    position = 0
    if all(span.dtype is task.dtype for span in segment.spans):
        return decode(buffer[: segment.nbytes], task.dtype, task.dtype)
    for span in segment.spans:
        raw = buffer[position : position + span.nbytes]
        pieces.append(decode(raw, span.dtype, task.dtype))
        position += span.nbytes
    return np.concatenate(pieces)
