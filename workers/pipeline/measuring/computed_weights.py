"""Measure weights that the model computes from its files: decoded 8-bit floats, split projections.

MLX evaluates a matrix on this thread while others measure the one before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Module
from bitbudget.workers.files.headers import TensorRef
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.streaming import Measuring
from bitbudget.workers.streaming.digest import digest_of_segments, segment_digest
from bitbudget.workers.streaming.results import place_of
from bitbudget.workers.streaming.store import ResultStore
from bitbudget.workers.sweep import WeightErrors
from bitbudget.workers.sweep.kernel import SegmentSums, sweep_segment
from bitbudget.workers.sweep.plan import SweepPlan, plan_sweep
from bitbudget.workers.sweep.segments import cut_into_segments
from bitbudget.workers.sweep.weight_errors import errors_from_sums

__all__ = ["measure_computed"]

Weights = npt.NDArray[Any]


def measure_computed(
    checkpoint: Checkpoint,
    modules: Sequence[Module],
    formats: tuple[Format, ...],
    how: Measuring,
    done: Callable[[Module], None],
) -> Iterator[tuple[Module, WeightErrors, str]]:
    """Yield errors and digest of each module; `done` is told before that.

    A result is kept for as long as no file of the checkpoint changes.
    """
    if not modules:
        return
    with ExitStack() as stack:
        store = stack.enter_context(ResultStore(how))
        pool = stack.enter_context(ThreadPoolExecutor(default_threads(), "bitbudget-sweep"))
        for module in modules:
            wanted = module.legal_formats(formats)
            plan = _plan(checkpoint, module, wanted, how)
            place = _place(checkpoint, module, store)
            found = store.found(place, plan) if place else None
            if found is None:
                found = _measured(checkpoint.parts(module.path), plan, module.path, pool)
                if place:
                    store.put(place, plan, *found)
            digest, errors = found
            t2 = {f: 0.0 if f == KEEP else errors.t2[f] for f in wanted}
            done(module)
            yield module, WeightErrors(t2, errors.features, errors.t2_relative_error), digest


def _place(checkpoint: Checkpoint, module: Module, store: ResultStore) -> str:
    """Return what the result is kept under, nothing where files come and go."""
    if checkpoint.hold is not None:
        return ""
    whole = [TensorRef(f.name, "", Dtype.U8, (), 0, f.nbytes) for f in checkpoint.files]
    return place_of(whole, store.files, module.path)


def _plan(
    checkpoint: Checkpoint, module: Module, formats: Sequence[Format], how: Measuring
) -> SweepPlan:
    return plan_sweep(
        module.dtype,
        module.shape[-1],
        math.prod(module.shape),
        tuple(f for f in formats if f != KEEP),
        encoder=how.encoder,
        full=how.features == "full",
        gains=checkpoint.norm_gains.get(module.path),
    )


def _measured(
    parts: Iterable[Weights], plan: SweepPlan, name: str, pool: ThreadPoolExecutor
) -> tuple[str, WeightErrors]:
    total, start, ahead = _Total(), 0, 0
    for part in parts:
        total.collect(ahead)
        segments = list(cut_into_segments([part], plan.segment_weights))
        ahead = len(segments)
        for segment in segments:
            total.waiting.append(pool.submit(_sweep, segment, plan, start))
            start += segment.size
    total.collect(0)
    return digest_of_segments(total.digests), errors_from_sums(total.sums, plan, name)


def _sweep(segment: Weights, plan: SweepPlan, start: int) -> tuple[bytes, SegmentSums]:
    return segment_digest(np.ascontiguousarray(segment)), sweep_segment(segment, plan, start)


@dataclass
class _Total:
    """What segments add up to, in order; `waiting` are under way."""

    sums: SegmentSums = field(default_factory=SegmentSums)
    digests: list[bytes] = field(default_factory=list)
    waiting: deque[Future[tuple[bytes, SegmentSums]]] = field(default_factory=deque)

    def collect(self, spared: int) -> None:
        """Wait for all but the last `spared` segments and add them."""
        while len(self.waiting) > spared:
            digest, sums = self.waiting.popleft().result()
            self.digests.append(digest)
            self.sums.add(sums)
