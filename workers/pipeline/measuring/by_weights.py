"""Measure modules by their weights alone, at the speed of the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bitbudget.app.core.encoders import encoder_by_weights
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import KEEP_POINT, Curve, CurvePoint
from bitbudget.workers.cluster.tensors import measure_on_cluster
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.measuring.computed_weights import measure_computed
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.streaming import (
    Features,
    MeasuredTensor,
    Measuring,
    Progress,
    TensorTask,
    measure_tensors,
)
from bitbudget.workers.sweep import WeightErrors

__all__ = ["StreamedModule", "measure_streamed", "measuring", "task_of"]


@dataclass(frozen=True, slots=True)
class StreamedModule:
    """The errors and features of one module; `digest` is that of its weight's bytes."""

    module: Module
    errors: WeightErrors
    digest: str

    def curve(self, alpha_nats: float) -> Curve:
        """Return the curve of a module whose error costs `alpha_nats` per unit of t2."""
        uncertain = self.errors.t2_relative_error
        points = tuple(
            CurvePoint(format_, t2, alpha_nats * t2, uncertain.get(format_, 0.0))
            for format_, t2 in self.errors.t2.items()
            if format_ != KEEP
        )
        path, features = self.module.path, self.errors.features
        return Curve(path, alpha_nats, (*points, KEEP_POINT), self.digest, features)


def measure_streamed(
    checkpoint: Checkpoint,
    modules: Sequence[Module],
    options: MeasureOptions,
    *,
    cache: Path,
    progress: Callable[[int, int, str], None],
) -> Iterator[StreamedModule]:
    """Yield every module as it is measured, in any order; known ones are not read again.

    Weights that lie in the files as they are stream past, here or on the cluster of the options;
    those that the model computes from them are evaluated one by one. `cache` is the SQLite file of
    results. `progress` takes bytes done, bytes in all and the module's path.
    """
    tasks = {module.path: task_of(checkpoint, module, options) for module in modules}
    streamed = [task for task in tasks.values() if task is not None]
    computed = [module for module in modules if tasks[module.path] is None]
    total = sum(task.nbytes for task in streamed) + sum(map(_nbytes, computed))
    by_path = {module.path: module for module in modules}
    how = measuring(checkpoint, options, cache)

    done = 0
    for files, group in _groups(checkpoint, streamed):

        def report(state: Progress, before: int = done) -> None:
            progress(before + state.done_bytes, total, state.path)

        with _held(checkpoint, files):
            for result in _stream(group, how, options.cluster, report):
                yield StreamedModule(by_path[result.path], result.errors, result.digest)
        done += sum(task.nbytes for task in group)

    def advance(module: Module) -> None:
        nonlocal done
        done += _nbytes(module)
        progress(done, total, module.path)

    for found in measure_computed(checkpoint, computed, options.formats, how, advance):
        yield StreamedModule(*found)


def measuring(checkpoint: Checkpoint, options: MeasureOptions, cache: Path) -> Measuring:
    """Return how tensors are measured by their weights alone."""
    features = cast("Features", options.features)
    return Measuring(checkpoint.folder, encoder_by_weights(options.encoder), features, cache)


def _groups(
    checkpoint: Checkpoint, tasks: list[TensorTask]
) -> list[tuple[tuple[str, ...], list[TensorTask]]]:
    """Return all tasks at once, or by the files they need where files come and go."""
    if checkpoint.hold is None:
        return [((), tasks)]
    groups: dict[tuple[str, ...], list[TensorTask]] = {}
    for task in tasks:
        files = tuple(sorted({source.file for source in task.sources}))
        groups.setdefault(files, []).append(task)
    return sorted(groups.items(), key=lambda item: item[0])


@contextmanager
def _held(checkpoint: Checkpoint, files: Sequence[str]) -> Iterator[None]:
    """Keep `files` on the disk, downloading them first where they are not."""
    with ExitStack() as stack:
        if checkpoint.hold is not None:
            for name in files:
                stack.enter_context(checkpoint.hold(name))
        yield


def _stream(
    tasks: list[TensorTask],
    how: Measuring,
    cluster: str | None,
    report: Callable[[Progress], None],
) -> Iterator[MeasuredTensor]:
    if cluster is not None:
        return measure_on_cluster(cluster, tasks, how, progress=report)
    return measure_tensors(tasks, how, progress=report)


def task_of(checkpoint: Checkpoint, module: Module, options: MeasureOptions) -> TensorTask | None:
    """Return what to stream for a module; None where the model computes its weight."""
    sources = checkpoint.sources(module.path)
    if sources is None or any(source.dtype is not module.dtype for source in sources):
        return None
    formats = module.legal_formats(options.formats)
    gains = checkpoint.norm_gains.get(module.path)
    return TensorTask(module.path, tuple(sources), module.dtype, formats, gains=gains)


def _nbytes(module: Module) -> int:
    return module.weights * module.dtype.itemsize
