"""One format per module for a request, with the proof of how good the choice is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.calibration import UNCALIBRATED, Calibration
from bitbudget.app.core.candidates import DecisionGroup, Rules, decision_groups
from bitbudget.app.core.constraints import DECODE_ROW, Conditions, conditions_of
from bitbudget.app.core.encoders import ENCODERS
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.formats import Format
from bitbudget.app.core.kv import KvFormat, KvSide
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.mckp import Limits, Solution, Status, solve_problem
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest

__all__ = ["allocate", "allocate_nested", "smallest_bytes"]

_SIDE_ROW_GAP: Final = 1e-6
"""With side rows the search ends at this relative gap, far below what predictions are good for."""


def allocate(
    measurement: Measurement,
    request: AllocationRequest,
    *,
    is_over: Callable[[], bool] = lambda: False,
    seconds_left: Callable[[], float] | None = None,
) -> Allocation:
    """Return the allocation of least predicted KL that `request` allows.

    The core has no clock: a caller who wants `request.time_limit_seconds` enforced passes
    `is_over`, which is asked now and then whether the time is up, and `seconds_left`, which a
    solver with a clock of its own is given: without it, such a solver has the whole limit anew.

    Raises InfeasibleBudgetError naming the smallest feasible bytes, InvalidRequestError for
    conditions that cannot be.
    """
    groups = decision_groups(measurement, Rules.of(request))
    return _allocate(measurement, request, groups, is_over, seconds_left)


def allocate_nested(
    measurement: Measurement,
    requests: Sequence[AllocationRequest],
    *,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[Allocation, ...]:
    """Allocate for falling budgets so that each step down only makes modules smaller.

    The first request is solved as `allocate` does; every following one is the best among those
    whose modules take no more bytes than in the one before, so that a step re-encodes only what
    changed.
    """
    allocations: list[Allocation] = []
    for request in requests:
        groups = decision_groups(measurement, Rules.of(request))
        if allocations:
            last = allocations[-1].formats
            groups = tuple(_at_most(group, last[group.modules[0].path]) for group in groups)
        allocations.append(_allocate(measurement, request, groups, is_over))
    return tuple(allocations)


def smallest_bytes(measurement: Measurement, rules: Rules) -> int:
    """Return the bytes of the smallest checkpoint that `rules` allow."""
    groups = decision_groups(measurement, rules)
    fixed = plan_checkpoint(measurement.inventory).fixed_bytes
    return fixed + sum(min(group.bytes) for group in groups)


def _at_most(group: DecisionGroup, format_: Format) -> DecisionGroup:
    """Keep the formats that take no more bytes than `format_` does."""
    most = dict(zip(group.formats, group.bytes, strict=True)).get(format_, max(group.bytes))
    kept = [index for index, nbytes in enumerate(group.bytes) if nbytes <= most]
    return replace(
        group,
        formats=tuple(group.formats[index] for index in kept),
        bytes=tuple(group.bytes[index] for index in kept),
        costs=tuple(group.costs[index] for index in kept),
    )


def _allocate(
    measurement: Measurement,
    request: AllocationRequest,
    groups: tuple[DecisionGroup, ...],
    is_over: Callable[[], bool],
    seconds_left: Callable[[], float] | None = None,
) -> Allocation:
    """Solve the one knapsack, or with joint KV the two: all caches as they are, or not.

    Any quantized cache makes prefill larger, so both are solved, and the better answer is bounded
    by the lower of the two bounds.
    """
    fixed = plan_checkpoint(measurement.inventory).fixed_bytes
    cases = [True, False] if request.joint_kv else [True]
    answers, refused = [], []
    for may_quantize_kv in cases:
        conditions = conditions_of(
            measurement, request, groups, fixed, may_quantize_kv=may_quantize_kv
        )
        try:
            answers.append((conditions, _solve(conditions, request, is_over, seconds_left)))
        except InfeasibleBudgetError as error:
            refused.append(error)
    if not answers:
        raise min(refused, key=lambda error: error.minimum_bytes - error.budget_bytes)
    conditions, solution = min(answers, key=lambda answer: answer[1].objective)
    proven = all(answer.status is Status.OPTIMAL for _, answer in answers)
    if len(answers) > 1:
        solution = replace(
            solution,
            bound=min(answer.bound for _, answer in answers),
            status=Status.OPTIMAL if proven else Status.FEASIBLE,
            stopped_by=next((a.stopped_by for _, a in answers if a.stopped_by), ""),
        )
    notes = _notes(measurement, request, conditions)
    return _allocation(groups, conditions, solution, measurement.calibration, notes)


def _solve(
    conditions: Conditions,
    request: AllocationRequest,
    is_over: Callable[[], bool],
    seconds_left: Callable[[], float] | None,
) -> Solution:
    limits = Limits(
        relative_gap=_SIDE_ROW_GAP if conditions.problem.rows else 0.0,
        is_over=is_over,
        seconds_left=seconds_left or (lambda: request.time_limit_seconds),
    )
    try:
        return solve_problem(conditions.problem, conditions.budget, limits)
    except InfeasibleBudgetError as error:
        raise InfeasibleBudgetError(
            budget_bytes=error.budget_bytes,
            minimum_bytes=error.minimum_bytes,
            binding=_binding(error, conditions, request),
        ) from error


def _binding(
    error: InfeasibleBudgetError, conditions: Conditions, request: AllocationRequest
) -> str:
    """Say what binds in the words of the request."""
    whole = "files with KV cache" if conditions.kv else "checkpoint"
    binding = str(error.fields["binding"]).replace("total of bytes", whole)
    if binding != f"row {DECODE_ROW!r}" or request.min_tokens_per_second is None:
        return binding
    most = request.min_tokens_per_second * error.budget_bytes / max(error.minimum_bytes, 1)
    return f"number of bytes read per token ({most:.3g} tokens per second on this device)"


def _notes(
    measurement: Measurement, request: AllocationRequest, conditions: Conditions
) -> tuple[str, ...]:
    """Say what a reader of the allocation must know about its conditions."""
    notes = [_below_floor(measurement, request, conditions), _unverified_level(measurement)]
    return (*filter(None, notes), *conditions.notes)


def _below_floor(
    measurement: Measurement, request: AllocationRequest, conditions: Conditions
) -> str:
    if request.sqnr_floor_db > 0:
        return ""
    rules = Rules(formats=request.formats, floors=request.floors, runtime=request.runtime)
    safe = smallest_bytes(measurement, rules)
    if conditions.file_limit >= safe:
        return ""
    return (
        f"{conditions.file_limit} bytes is below {safe}, the smallest size with every module above"
        " the default SQNR floor: quality is not vouched for"
    )


def _unverified_level(measurement: Measurement) -> str:
    """Say that a prediction is optimistic: by 2.6 times on SmolLM2-135M (docs/effort.md)."""
    encoder = ENCODERS[measurement.encoder]
    fits = encoder.needs_statistics and measurement.objective.is_kl
    if not fits or measurement.calibration != UNCALIBRATED:
        return ""
    return (
        f"{encoder.label} fits codes to the {measurement.tokens} tokens that it prices them on,"
        " and no checkpoint was measured: the checkpoint may lose several times the predicted KL;"
        " evaluate it, or measure with effort standard"
    )


def _allocation(
    groups: tuple[DecisionGroup, ...],
    conditions: Conditions,
    solution: Solution,
    calibration: Calibration,
    notes: tuple[str, ...],
) -> Allocation:
    """Return the solution in the words of the request, its certificate in nats of expected KL.

    The calibration rises, so a bound on costs is one on KL.
    """
    chosen = (solution.choice - conditions.problem.offsets[:-1]).tolist()[1:]
    formats: dict[str, Format] = {}
    kv_formats: dict[int, dict[KvSide, KvFormat]] = {}
    kv_bytes = 0
    for group, index in zip(groups, chosen[: len(groups)], strict=True):
        formats.update((module.path, group.formats[index]) for module in group.modules)
    for kv, index in zip(conditions.kv, chosen[len(groups) :], strict=True):
        kv_formats.setdefault(kv.layer, {})[kv.side] = kv.formats[index]
        kv_bytes += kv.bytes[index]
    predicted, bound = calibration.kl(solution.objective), calibration.kl(solution.bound)
    return Allocation(
        formats=formats,
        file_bytes=solution.bytes - kv_bytes,
        budget_bytes=min(conditions.file_limit, conditions.budget - kv_bytes),
        predicted_kl_nats_per_token=predicted,
        bound=bound,
        gap=(predicted - bound) / predicted if predicted > 0 else 0.0,
        shadow_price_nats_per_byte=solution.price * calibration.slope(solution.objective),
        status=solution.status.value,
        solver=solution.solver,
        stopped_by=solution.stopped_by,
        kv_formats=kv_formats or None,
        notes=notes,
        interval_95=calibration.interval_95(solution.objective),
    )
