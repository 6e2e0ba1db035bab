"""From a stored measurement and a budget to a manifest, without a worker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from bitbudget.app.contract.reports import Answer
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.rotation_choice import solve_each
from bitbudget.app.core.solving import manifest_of

__all__ = ["Ask", "Solved", "limited", "over_after", "searched", "solve", "solve_best"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Solved:
    """A manifest with its canonical bytes."""

    manifest: Manifest
    data: bytes
    answer: Answer


class Ask(Protocol):
    """Has a function of a measurement run somewhere, within seconds and while somebody waits."""

    def __call__(
        self,
        seconds: float,
        is_gone: Callable[[], bool],
        work: Callable[[Measurement], Result],
        measurement: Measurement,
    ) -> Result:
        """Return what `work` returns."""


@dataclass(frozen=True, slots=True)
class _Limits:
    seconds: float = math.inf
    is_gone: Callable[[], bool] = lambda: False
    ask: Ask | None = None


_LIMITS: ContextVar[_Limits] = ContextVar("limits", default=_Limits())  # noqa: B039 - frozen


@contextmanager
def limited(seconds: float, is_gone: Callable[[], bool], ask: Ask | None = None) -> Iterator[None]:
    """End every search in the block, and in threads started from it, after so many seconds.

    `is_gone` tells whether nobody waits for the answer any more. With `ask`, searches run where
    that lets them run, else here.
    """
    token = _LIMITS.set(_Limits(seconds, is_gone, ask))
    try:
        yield
    finally:
        _LIMITS.reset(token)


def searched(work: Callable[[Measurement], Result], measurement: Measurement) -> Result:
    """Return what `work` returns where `limited` lets searches run; it can be pickled."""
    limits = _LIMITS.get()
    if limits.ask is None:
        return work(measurement)
    return limits.ask(limits.seconds, limits.is_gone, work, measurement)


def over_after(seconds: float) -> Callable[[], bool]:
    """Return what tells whether a search is over: by its time, or because nobody waits for it."""
    limits = _LIMITS.get()
    ends_at = time.monotonic() + min(seconds, limits.seconds)
    return lambda: time.monotonic() > ends_at or limits.is_gone()


def solve(measurement: Measurement, request: AllocationRequest) -> Solved:
    """Allocate within the budget; InfeasibleBudgetError names the smallest feasible size.

    The search ends at the request's time limit, or at what `limited` says, whichever is first.
    """
    return searched(partial(_solve, request=request), measurement)


def _solve(measurement: Measurement, request: AllocationRequest) -> Solved:
    limits = _LIMITS.get()
    seconds = min(request.time_limit_seconds, limits.seconds)
    ends_at = time.monotonic() + seconds
    allocation = allocate(
        measurement,
        request.model_copy(update={"time_limit_seconds": seconds}),
        is_over=over_after(seconds),
        seconds_left=lambda: 0.0 if limits.is_gone() else ends_at - time.monotonic(),
    )
    manifest = manifest_of(measurement, request, allocation)
    return Solved(manifest, manifest.to_bytes(), Answer.of(manifest))


def solve_best(
    measurements: Sequence[Measurement], request: AllocationRequest
) -> tuple[Measurement, Solved]:
    """Return the best answer from measurements of one model, as it is and rotated, and its origin.

    InfeasibleBudgetError when the budget fits none; it names the smallest size of the first.
    """
    return solve_each(
        measurements,
        lambda measurement: (measurement, solve(measurement, request)),
        lambda found: (found[0], found[1].answer.predicted_kl_nats_per_token),
    )
