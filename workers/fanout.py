"""Spread measuring over processes or a Dask cluster; the numbers are those of a serial run.

A batch of about equal bytes goes to each worker, which reads the tensors itself and returns numbers
only: the model folder has to be at the same path on every machine. Errors that another attempt
cannot mend (NaN, a truncated file) end the run at once; a lost worker or a failing disk is retried.
"""

from __future__ import annotations

import heapq
import importlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from app.core.errors import BitbudgetError, InvalidRequestError
from workers.streaming import MeasuredTensor, Measuring, Progress, TensorTask, measure_tensors
from workers.streaming.files import ReadError
from workers.streaming.progress import ProgressMeter
from workers.streaming.store import ResultStore

__all__ = ["Batch", "balanced_batches", "fan_out", "measure_on_cluster", "measure_on_processes"]

BATCHES_PER_WORKER: Final = 4
"""Smaller batches even out workers of different speed and lose less when one dies."""

ATTEMPTS: Final = 3

CONNECT_SECONDS = 10.0
"""How long the scheduler may take to answer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one worker measures in one go, on one thread and without a cache."""

    tasks: tuple[TensorTask, ...]
    how: Measuring


@dataclass(frozen=True, slots=True)
class _Outcome:
    results: tuple[MeasuredTensor, ...] = ()
    error: BitbudgetError | None = None


def balanced_batches(tasks: Iterable[TensorTask], count: int) -> list[tuple[TensorTask, ...]]:
    """Deal tasks out to at most `count` batches of about equal bytes, the largest batch first."""
    heap: list[tuple[int, int, list[TensorTask]]] = [(0, i, []) for i in range(max(1, count))]
    for task in sorted(tasks, key=lambda task: -task.nbytes):
        nbytes, index, members = heapq.heappop(heap)
        members.append(task)
        heapq.heappush(heap, (nbytes + task.nbytes, index, members))
    ordered = sorted(heap, key=lambda entry: (-entry[0], entry[1]))
    return [tuple(members) for _, _, members in ordered if members]


def _measure_batch(batch: Batch) -> _Outcome:
    """Measure one batch in a worker process; only a failing disk is raised, to be retried."""
    try:
        return _Outcome(tuple(measure_tensors(batch.tasks, batch.how, threads=1)))
    except ReadError:
        raise
    except BitbudgetError as error:
        return _Outcome(error=error)


def measure_on_processes(
    tasks: Iterable[TensorTask],
    how: Measuring,
    *,
    processes: int,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[MeasuredTensor]:
    """Measure on `processes` processes of this machine; see `measure_tensors` for the rest."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as executor:
        yield from fan_out(executor, processes, list(tasks), how, progress=progress)


def measure_on_cluster(
    address: str,
    tasks: Iterable[TensorTask],
    how: Measuring,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[MeasuredTensor]:
    """Measure on the Dask cluster whose scheduler is at `address` (`tls://host:8786`).

    Certificates for mutual TLS come from Dask's own configuration (`distributed.comm.tls`).
    Raises InvalidRequestError when Dask is missing, the scheduler does not answer or has no worker.
    """
    with _cluster(address) as (executor, workers):
        yield from fan_out(executor, workers, list(tasks), how, progress=progress)


@contextmanager
def _cluster(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise _refused(address, "no Dask", "pip install 'bitbudget[cluster]'") from error
    try:
        client: Any = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        remedy = "check the address, the certificates and that `dask scheduler` runs there"
        raise _refused(address, f"no answer ({error})", remedy) from error
    with client:
        workers = len(client.scheduler_info()["workers"])
        if not workers:
            raise _refused(address, "no workers", "start `dask worker` on the machines to use")
        yield client.get_executor(pure=False, retries=ATTEMPTS - 1), workers


def _refused(address: str, found: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(
        where=f"--cluster {address}", found=found, expected="a Dask scheduler", remedy=remedy
    )


def fan_out(
    executor: Executor,
    workers: int,
    tasks: Sequence[TensorTask],
    how: Measuring,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[MeasuredTensor]:
    """Yield results from any executor as its batches finish, known ones first."""
    meter = ProgressMeter(sum(task.nbytes for task in tasks), progress)
    with ResultStore(how) as store:
        missing = []
        for task in tasks:
            known = store.at_place(task, how.plan(task))
            if known is None:
                missing.append(task)
                continue
            meter.advance(task.path, task.nbytes, read=False)
            yield known
        remotely = replace(how, cache=None)
        dealt = balanced_batches(missing, workers * BATCHES_PER_WORKER)
        for batch, outcome in _completed(executor, [Batch(tasks, remotely) for tasks in dealt]):
            by_path = {task.path: task for task in batch.tasks}
            for result in outcome.results:
                task = by_path[result.path]
                store.keep(task, how.plan(task), result)
                meter.advance(task.path, task.nbytes, read=True)
                yield result


def _completed(executor: Executor, batches: list[Batch]) -> Iterator[tuple[Batch, _Outcome]]:
    """Run batches with up to ATTEMPTS attempts each; the first error that stays is raised."""
    waiting = importlib.import_module("concurrent.futures")
    running: dict[Future[_Outcome], tuple[Batch, int]] = {
        executor.submit(_measure_batch, batch): (batch, 1) for batch in batches
    }
    try:
        while running:
            done = waiting.wait(running, return_when="FIRST_COMPLETED").done
            for future in done:
                batch, attempt = running.pop(future)
                try:
                    outcome = future.result()
                except ReadError:
                    if attempt == ATTEMPTS:
                        raise
                    running[executor.submit(_measure_batch, batch)] = (batch, attempt + 1)
                    continue
                if outcome.error is not None:
                    raise outcome.error
                yield batch, outcome
    finally:
        for future in running:
            future.cancel()
