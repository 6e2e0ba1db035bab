"""Measure the tensors of a checkpoint, each once in its life."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.core.formats import KEEP
from app.core.measurement import Encoder
from workers.streaming.files import SourceFiles
from workers.streaming.pipeline import Finished, Pipeline, Read, default_threads
from workers.streaming.results import ResultCache, place_of, plan_key
from workers.streaming.tensors import TensorTask
from workers.sweep.measure import WeightErrors, errors_from_sums
from workers.sweep.plan import SweepPlan

__all__ = ["Features", "MeasuredTensor", "Progress", "measure_tensors"]

Features = Literal["default", "full"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the measurement is: `read_bytes` of `done_bytes` were read, the others known."""

    done_bytes: int
    total_bytes: int
    read_bytes: int
    seconds: float
    path: str

    @property
    def bytes_per_second(self) -> float:
        """Rate of reading and measuring so far."""
        return self.read_bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def remaining_seconds(self) -> float | None:
        """Time that the rest takes at this rate, None before anything was read."""
        rate = self.bytes_per_second
        return (self.total_bytes - self.done_bytes) / rate if rate else None


@dataclass(frozen=True, slots=True)
class MeasuredTensor:
    """The result of one task. `digest` is the SHA-256 of its source bytes."""

    path: str
    errors: WeightErrors
    digest: str
    from_cache: bool


def measure_tensors(
    folder: Path,
    tasks: Iterable[TensorTask],
    encoder: Encoder,
    *,
    features: Features = "default",
    cache: Path | None = None,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[MeasuredTensor]:
    """Yield the result of every task as it is known; the order is not that of `tasks`.

    Every byte is read once. Peak memory is the buffers' (about 8 MiB for each of `threads` + 4)
    whatever the model. Numbers do not depend on `threads`. With `cache`, a SQLite file, results are
    found again by place and stamp of the bytes, or by their digest.

    Raises InvalidModelError for NaN, infinities, truncated or changing files, and ReadError when a
    disk fails; what was yielded before is in the cache.
    """
    with ExitStack() as stack:
        files = stack.enter_context(SourceFiles(folder))
        results = None if cache is None else stack.enter_context(ResultCache(cache))
        work = _Work(files, results, features, progress)
        plans = [(task, task.plan(encoder)) for task in tasks]
        yield from work.run(plans, threads or default_threads())


class _Work:
    def __init__(
        self,
        files: SourceFiles,
        results: ResultCache | None,
        features: Features,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._files = files
        self._results = results
        self._features = features
        self._report = progress
        self._started = time.monotonic()
        self._done_bytes = 0
        self._read_bytes = 0
        self._total_bytes = 0

    def run(
        self, plans: list[tuple[TensorTask, SweepPlan]], threads: int
    ) -> Iterator[MeasuredTensor]:
        self._total_bytes = sum(task.nbytes for task, _ in plans)
        missing = []
        for task, plan in plans:
            known = self._known(task, plan)
            if known is None:
                missing.append((task, plan))
                continue
            self._advance(task.path, task.nbytes, read=False)
            yield known
        pipeline = Pipeline(self._files, threads, self._knows_head, self._knows)
        for event in pipeline.run(missing):
            if isinstance(event, Read):
                self._advance(event.path, event.nbytes, read=True)
            else:
                yield self._result(event)

    def _key(self, plan: SweepPlan) -> str:
        return plan_key(plan, self._features)

    def _knows_head(self, head: str, plan: SweepPlan) -> bool:
        return self._results is not None and self._results.knows_head(head, self._key(plan))

    def _knows(self, digest: str, plan: SweepPlan) -> bool:
        if self._results is None:
            return False
        return self._results.with_digest(digest, self._key(plan)) is not None

    def _known(self, task: TensorTask, plan: SweepPlan) -> MeasuredTensor | None:
        if self._results is None:
            return None
        found = self._results.at_place(place_of(task, self._files), self._key(plan))
        if found is None:
            return None
        return MeasuredTensor(task.path, _with_keep(task, found[1]), found[0], from_cache=True)

    def _result(self, event: Finished) -> MeasuredTensor:
        task, key = event.task, self._key(event.plan)
        errors = None
        if event.sums is not None:
            errors = errors_from_sums(event.sums, event.plan, task.path)
        elif self._results is not None:
            errors = self._results.with_digest(event.digest, key)
        if errors is None:
            msg = f"the result of {task.path} vanished from the cache"
            raise RuntimeError(msg)
        if self._results is not None:
            place = place_of(task, self._files)
            self._results.store(place, event.digest, event.head, key, errors)
        found = _with_keep(task, errors)
        return MeasuredTensor(task.path, found, event.digest, from_cache=event.sums is None)

    def _advance(self, path: str, nbytes: int, *, read: bool) -> None:
        self._done_bytes += nbytes
        self._read_bytes += nbytes if read else 0
        if self._report is not None:
            seconds = time.monotonic() - self._started
            state = (self._done_bytes, self._total_bytes, self._read_bytes, seconds, path)
            self._report(Progress(*state))


def _with_keep(task: TensorTask, errors: WeightErrors) -> WeightErrors:
    if KEEP not in task.formats:
        return errors
    return WeightErrors({**errors.t2, KEEP: 0.0}, errors.features, errors.t2_relative_error)
