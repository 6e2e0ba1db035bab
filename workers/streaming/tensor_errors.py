"""Measure the tensors of a checkpoint, each once in its life."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.streaming.pipeline import Finished, Pipeline, Read
from bitbudget.workers.streaming.progress import Progress, ProgressMeter
from bitbudget.workers.streaming.store import MeasuredTensor, Measuring, ResultStore, for_task
from bitbudget.workers.streaming.tensors import TensorTask
from bitbudget.workers.sweep.weight_errors import errors_from_sums

__all__ = ["measure_tensors"]


def measure_tensors(
    tasks: Iterable[TensorTask],
    how: Measuring,
    *,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    whole: Collection[str] = (),
    hashed: Callable[[str, str], None] | None = None,
) -> Iterator[MeasuredTensor]:
    """Yield the result of every task as it is known; the order is not that of `tasks`.

    Every byte is read once. Peak memory is that of the buffers (a segment for each of `threads` and
    four more) whatever the model. Numbers do not depend on `threads`, by default one for each
    processor. With a cache, results are found again by place and stamp of the bytes, or by their
    digest. The files `whole` are read from end to end, and `hashed` is told name and SHA-256.

    Raises InvalidModelError for NaN, infinities, truncated or changing files, and ReadError when a
    disk fails; what was yielded before is in the cache.
    """
    plans = [(task, how.plan(task)) for task in tasks]
    with ResultStore(how) as store:
        found = [(task, plan, store.at_place(task, plan)) for task, plan in plans]
        missing = [(task, plan) for task, plan, known in found if known is None]
        others = sum(store.files.stamp(name).nbytes for name in whole) - sum(
            source.nbytes for task, _ in missing for source in task.sources if source.file in whole
        )
        total = sum(task.nbytes for task, _ in plans) + max(others, 0)
        meter = ProgressMeter(total, progress)
        for task, _, known in found:
            if known is not None:
                meter.advance(task.path, task.nbytes, read=False)
                yield known
        pipeline = Pipeline(store, threads or default_threads())
        for event in pipeline.run(missing, whole):
            if isinstance(event, Read):
                meter.advance(event.path, event.nbytes, read=True)
            elif isinstance(event, Finished):
                yield _result(event, store)
            elif hashed is not None:
                hashed(event.name, event.sha256)


def _result(event: Finished, store: ResultStore) -> MeasuredTensor:
    task, plan = event.task, event.plan
    errors = event.known
    if errors is None:
        errors = errors_from_sums(event.sums, plan, task.path)
    measured = MeasuredTensor(
        task.path, for_task(task, errors), event.digest, event.head, event.known is not None
    )
    store.keep(task, plan, measured)
    return measured
