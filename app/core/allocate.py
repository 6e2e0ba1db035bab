"""One format per module for a request, with the proof of how good the choice is."""

from __future__ import annotations

from collections.abc import Callable

from app.core.allocation import Allocation
from app.core.choices import DecisionGroup, Rules, as_problem, decision_groups
from app.core.errors import InfeasibleBudgetError, InvalidRequestError
from app.core.formats import Format
from app.core.layout import plan_checkpoint
from app.core.mckp import Limits, Solution, prepare, solve_prepared
from app.core.measurement import Measurement
from app.core.requests import AllocationRequest

__all__ = ["allocate", "smallest_bytes"]


def allocate(
    measurement: Measurement,
    request: AllocationRequest,
    *,
    is_over: Callable[[], bool] = lambda: False,
) -> Allocation:
    """Return the allocation of least predicted KL that `request` allows.

    The core has no clock: a caller who wants `request.time_limit_seconds` enforced passes
    `is_over`, which is asked now and then whether the time is up.

    Raises InfeasibleBudgetError naming the smallest feasible bytes, InvalidRequestError for pins,
    floors or formats that cannot be.
    """
    groups = decision_groups(measurement, Rules.of(request))
    fixed = plan_checkpoint(measurement.inventory).fixed_bytes
    prepared = prepare(as_problem(groups))
    smallest = fixed + prepared.minimum_bytes
    budget = _budget(request, smallest)
    if budget < smallest:
        raise InfeasibleBudgetError(budget_bytes=budget, minimum_bytes=smallest)
    limits = Limits(is_over=is_over, seconds_left=lambda: request.time_limit_seconds)
    solution = solve_prepared(prepared, budget - fixed, limits)
    return _allocation(groups, solution, fixed, budget, _notes(measurement, request, budget))


def smallest_bytes(measurement: Measurement, rules: Rules) -> int:
    """Return the bytes of the smallest checkpoint that `rules` allow."""
    groups = decision_groups(measurement, rules)
    fixed = plan_checkpoint(measurement.inventory).fixed_bytes
    return fixed + sum(min(group.bytes) for group in groups)


def _budget(request: AllocationRequest, smallest: int) -> int:
    stated = [] if request.budget_bytes is None else [request.budget_bytes]
    if request.min_safe:
        stated.append(smallest if not stated or stated[0] >= smallest else stated[0])
    if not stated:
        raise InvalidRequestError(
            where="budget",
            found="none",
            expected="bytes, a device with a context, or min_safe",
            remedy="state a budget such as 5.5GiB",
        )
    return min(stated)


def _notes(measurement: Measurement, request: AllocationRequest, budget: int) -> tuple[str, ...]:
    """Say what a reader of the allocation must know about its conditions."""
    if request.sqnr_floor_db > 0:
        return ()
    safe = smallest_bytes(measurement, Rules(formats=request.formats, floors=request.floors))
    if budget >= safe:
        return ()
    note = (
        f"{budget} bytes is below {safe}, the smallest size with every module above the default"
        " SQNR floor: quality is not vouched for"
    )
    return (note,)


def _allocation(
    groups: tuple[DecisionGroup, ...],
    solution: Solution,
    fixed: int,
    budget: int,
    notes: tuple[str, ...],
) -> Allocation:
    return Allocation(
        formats=_formats(groups, solution),
        file_bytes=fixed + solution.bytes,
        budget_bytes=budget,
        predicted_kl_nats_per_token=solution.objective,
        bound=solution.bound,
        gap=solution.gap,
        shadow_price_nats_per_byte=solution.price,
        status=solution.status.value,
        solver=solution.solver,
        stopped_by=solution.stopped_by,
        notes=notes,
    )


def _formats(groups: tuple[DecisionGroup, ...], solution: Solution) -> dict[str, Format]:
    formats: dict[str, Format] = {}
    first = 0
    for group, place in zip(groups, solution.choice.tolist(), strict=True):
        chosen = group.formats[place - first]
        formats.update((module.path, chosen) for module in group.modules)
        first += len(group.formats)
    return formats
