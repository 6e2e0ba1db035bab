"""Spread measuring tensors over processes or a Dask cluster; the numbers are those of a serial run.

A batch of about equal bytes goes to each worker, which reads the tensors itself and returns numbers
only: the model folder has to be at the same path on every machine.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace

from bitbudget.workers.cluster.batches import (
    BATCHES_PER_WORKER,
    balanced_batches,
    completed,
    on_cluster,
    require_seen,
)
from bitbudget.workers.streaming import (
    MeasuredTensor,
    Measuring,
    Progress,
    TensorTask,
    measure_tensors,
)
from bitbudget.workers.streaming.progress import ProgressMeter
from bitbudget.workers.streaming.store import ResultStore

__all__ = ["TensorBatch", "fan_out", "measure_on_cluster", "measure_on_processes"]


@dataclass(frozen=True, slots=True)
class TensorBatch:
    """What one worker measures in one go, on one thread and without a cache."""

    tasks: tuple[TensorTask, ...]
    how: Measuring

    @property
    def name(self) -> str:
        """The first of its tensors, and how many they are."""
        return f"{self.tasks[0].path} (of a batch of {len(self.tasks)})"


def _measure_batch(batch: TensorBatch) -> Iterator[MeasuredTensor]:
    require_seen(batch.how.folder)
    return measure_tensors(batch.tasks, batch.how, threads=1)


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
    with on_cluster(address) as (executor, workers):
        yield from fan_out(executor, workers, list(tasks), how, progress=progress)


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
        remotely = replace(how, folder=how.folder.absolute(), cache=None)
        dealt = balanced_batches(missing, workers * BATCHES_PER_WORKER, lambda task: task.nbytes)
        batches = [TensorBatch(tasks, remotely) for tasks in dealt]
        for batch, results in completed(executor, _measure_batch, batches):
            by_path = {task.path: task for task in batch.tasks}
            for result in results:
                task = by_path[result.path]
                store.keep(task, how.plan(task), result)
                meter.advance(task.path, task.nbytes, read=True)
                yield result
