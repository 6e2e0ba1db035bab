"""From a stored measurement and a budget to a manifest, without a worker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from bitbudget.app.contract.reports import Answer
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.rotation_choice import solve_each
from bitbudget.app.core.solving import manifest_of

__all__ = ["Solved", "limited", "solve", "solve_best"]


@dataclass(frozen=True, slots=True)
class Solved:
    """A manifest with its canonical bytes."""

    manifest: Manifest
    data: bytes
    answer: Answer


@dataclass(frozen=True, slots=True)
class _Limits:
    seconds: float = math.inf
    is_gone: Callable[[], bool] = lambda: False


_LIMITS: ContextVar[_Limits] = ContextVar("limits", default=_Limits())  # noqa: B039 - frozen


@contextmanager
def limited(seconds: float, is_gone: Callable[[], bool]) -> Iterator[None]:
    """End every search in the block, and in threads started from it, after so many seconds.

    `is_gone` tells whether nobody waits for the answer any more.
    """
    token = _LIMITS.set(_Limits(seconds, is_gone))
    try:
        yield
    finally:
        _LIMITS.reset(token)


def solve(measurement: Measurement, request: AllocationRequest) -> Solved:
    """Allocate within the budget; InfeasibleBudgetError names the smallest feasible size.

    The search ends at the request's time limit, or at what `limited` says, whichever is first.
    """
    limits = _LIMITS.get()
    seconds = min(request.time_limit_seconds, limits.seconds)
    ends_at = time.monotonic() + seconds
    allocation = allocate(
        measurement,
        request.model_copy(update={"time_limit_seconds": seconds}),
        is_over=lambda: time.monotonic() > ends_at or limits.is_gone(),
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
