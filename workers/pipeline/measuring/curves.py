"""The curves of all modules by the deployed encoder's own errors, here or on a cluster.

On a cluster, modules go out in batches that are a module each where modules are large. A worker
reads weights and statistics itself, so that the folder of the model and BITBUDGET_HOME have to be
at the same path on every machine: the statistics of a large model are tens of gigabytes, which sent
with the tasks would all lie in the scheduler's memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from bitbudget.app.contract.home import Home
from bitbudget.app.core.errors import BitbudgetError, InvalidRequestError
from bitbudget.app.core.measurement import Curve
from bitbudget.workers.cluster.batches import (
    BATCHES_PER_WORKER,
    balanced_batches,
    completed,
    on_cluster,
    require_seen,
)
from bitbudget.workers.cluster.isolated_call import Parcel, run_apart
from bitbudget.workers.fisher import Statistics
from bitbudget.workers.models import Checkpoint, open_checkpoint
from bitbudget.workers.native.memory import return_freed_memory
from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.pipeline.journal import Journal
from bitbudget.workers.pipeline.measuring.curve import CurveTask, curve_of, make_curve
from bitbudget.workers.pipeline.run import Run, Variant

if TYPE_CHECKING:
    from bitbudget.workers.pipeline.measuring.by_running import Sensitivities

__all__ = ["curves_by_error", "curves_here"]

_CURVE = TypeAdapter(Curve)
_SIDE_BY_SIDE_WEIGHTS: Final = 1 << 22
"""Weights of a module up to which others are held beside it."""
_LEAST_BATCH_BYTES = 2**20
"""Of weights that go to a worker together: coding them takes longer than to start a process."""
_MOST_BATCH_BYTES: Final = 2**25
"""As many, or one module: not much to lose."""


class CurveError(BitbudgetError):
    """The curve of a module could not be made."""

    template = "{module}: its curve could not be made ({reason}); {remedy}."

    def __init__(self, *, module: str, reason: str) -> None:
        remedy = "look at the log of the worker that tried, which has the whole trace"
        super().__init__(module=module, reason=reason, remedy=remedy)


def curves_by_error(
    run: Run, variant: Variant, known: Sensitivities, journal: Journal
) -> Iterator[Curve]:
    """Yield the curves in any order; those that are in the journal are not made again."""
    return_freed_memory()
    checkpoint, options = variant.checkpoint, variant.options
    tasks = {
        module.path: CurveTask(
            module, options, known.alphas[module.path], checkpoint.norm_gains.get(module.path)
        )
        for module in variant.inventory.modules
    }
    finished = {curve.path: curve for curve in map(_CURVE.validate_python, journal)}
    missing = [task for path, task in tasks.items() if path not in finished]
    if options.cluster is None:
        made = curves_here(checkpoint, known.modules, missing)
    else:
        made = _Place(checkpoint, known.modules, run.home).on(options.cluster, missing)
    total, done = sum(task.nbytes for task in tasks.values()), 0
    for curve in chain(finished.values(), made):
        if curve.path not in finished:
            journal.append(_CURVE.dump_python(curve, mode="json"))
        yield curve
        done += tasks[curve.path].nbytes
        run.report.progress(done, total, detail=curve.path)


def curves_here(
    checkpoint: Checkpoint, statistics: Statistics, tasks: Sequence[CurveTask]
) -> Iterator[Curve]:
    """Yield the curve of each task, made on this machine.

    Those of small modules are made side by side, each on a thread, those of large ones alone.
    Weights and statistics are read by this thread, a few modules ahead.
    """
    waiting: deque[Future[Curve]] = deque()
    threads = default_threads()
    with ThreadPoolExecutor(threads, "bitbudget-curves") as pool:
        for task in tasks:
            path = task.module.path
            known = statistics.get(path)
            if task.module.weights > _SIDE_BY_SIDE_WEIGHTS:
                yield from _drained(waiting, 0)
                yield make_curve(checkpoint, task, known)
                continue
            parts = list(checkpoint.parts(path))
            waiting.append(pool.submit(curve_of, parts, task, known))
            yield from _drained(waiting, threads)
        yield from _drained(waiting, 0)


@dataclass(frozen=True)
class _Place:
    """Where weights and statistics are."""

    checkpoint: Checkpoint
    statistics: Statistics
    home: Home

    def on(self, cluster: str, tasks: Sequence[CurveTask]) -> Iterator[Curve]:
        """Make them on the workers of a cluster."""
        if not tasks:
            return
        with on_cluster(cluster) as (executor, workers):
            count = _batches(sum(task.nbytes for task in tasks), workers)
            dealt = balanced_batches(tasks, count, lambda task: task.nbytes)
            parcels = [self._parcel(batch) for batch in dealt]
            for _, curves in completed(executor, run_apart, parcels):
                yield from curves

    def _parcel(self, tasks: tuple[CurveTask, ...]) -> Parcel:
        paths = [task.module.path for task in tasks]
        batch = _Batch(
            self.checkpoint.folder.absolute(),
            self.checkpoint.identity(self.home.digests).digest,
            self.home.digests.absolute(),
            tasks,
            self.statistics.only(paths),
        )
        name = paths[0] if len(paths) == 1 else f"{paths[0]} or one of {len(paths) - 1} more"
        return Parcel.of(name, _curves, batch)


def _drained(waiting: deque[Future[Curve]], left: int) -> Iterator[Curve]:
    """Yield the curves that were begun first until only `left` are waited for."""
    while len(waiting) > left:
        yield waiting.popleft().result()


def _batches(nbytes: int, workers: int) -> int:
    """Return into how many batches weights of `nbytes` are dealt."""
    wanted = min(workers * BATCHES_PER_WORKER, math.ceil(nbytes / _LEAST_BATCH_BYTES))
    return max(workers, wanted, math.ceil(nbytes / _MOST_BATCH_BYTES))


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one worker makes, and the digest of the model that it has to find in `folder`."""

    folder: Path
    digest: str
    digests: Path
    tasks: tuple[CurveTask, ...]
    statistics: Statistics


def _curves(batch: _Batch) -> Iterator[Curve]:
    """Make the curves of a batch, in a process of a worker."""
    for needed in (batch.folder, *batch.statistics.files.values()):
        require_seen(needed)
    checkpoint = open_checkpoint(batch.folder)
    found = checkpoint.identity(batch.digests).digest
    if found != batch.digest:
        raise _other_model(batch, found)
    for task in batch.tasks:
        path = task.module.path
        try:
            yield make_curve(checkpoint, task, batch.statistics.get(path))
        except (BitbudgetError, OSError, MemoryError):
            raise
        except Exception as error:
            raise CurveError(module=path, reason=f"{type(error).__name__}: {error}") from error


def _other_model(batch: _Batch, found: str) -> InvalidRequestError:
    return InvalidRequestError(
        where=f"{batch.folder} on a worker of the cluster",
        found=f"other files (digest {found[:12]})",
        expected=f"those of the machine that measures ({batch.digest[:12]})",
        remedy="share that folder with every machine of the cluster, at the same path",
    )
