"""Closing the gap of a problem with side rows by OR-Tools CP-SAT, on what reduced costs leave."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from ortools.sat.python import cp_model

from bitbudget.app.core.mckp.problem import Floats, Integers
from bitbudget.app.core.mckp.result import Limits
from bitbudget.app.core.mckp.rows.system import System

__all__ = ["Closed", "close_exactly", "least_of_row"]

_PRECISION: Final = 2.0**50
"""The sum of all scaled costs stays below this."""

_EFFORT: Final = 60.0
"""Deterministic seconds of the search, so that a stop does not depend on the machine's speed."""
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """The best choice found and a bound on the cost of any choice among the options left.

    `is_optimal` and `is_infeasible` are proven, up to `rounding` of the cost.
    """

    choice: Integers | None
    bound: float
    rounding: float
    is_optimal: bool
    is_infeasible: bool


def close_exactly(
    system: System, options: Integers, hint: Integers | None, limits: Limits
) -> Closed:
    """Minimise the cost over `options` (sorted, at least one per group)."""
    costs = system.problem.costs[options]
    group = system.group_of[options]
    first = np.searchsorted(group, np.arange(system.problem.groups))
    base = np.minimum.reduceat(costs, first)
    extra = costs - base[group]
    scale, rounding = _scale_of(extra, first)
    model, variables = _model(system, options, system.limits)
    model.minimize(
        cp_model.LinearExpr.weighted_sum(variables, np.floor(extra * scale).astype(np.int64))
    )
    if hint is not None:
        chosen = np.isin(options, hint)
        for variable, value in zip(variables, chosen.tolist(), strict=True):
            model.add_hint(variable, value)
    solver, status = _run(model, limits)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    least = float(base.sum())
    return Closed(
        choice=_chosen(solver, variables, options) if found else None,
        bound=least + max(solver.best_objective_bound, 0.0) / scale if found else least,
        rounding=rounding,
        is_optimal=status == cp_model.OPTIMAL,
        is_infeasible=status == cp_model.INFEASIBLE,
    )


def least_of_row(system: System, row: int, limits: Limits) -> int | None:
    """Return the least sum of one row while the others hold; None when they cannot."""
    options = np.arange(system.problem.options)
    ceilings = system.limits.copy()
    ceilings[row] = np.maximum.reduceat(system.weights[row], system.problem.offsets[:-1]).sum()
    model, variables = _model(system, options, ceilings)
    model.minimize(cp_model.LinearExpr.weighted_sum(variables, system.weights[row]))
    solver, status = _run(model, limits)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return int(system.weights[row, _chosen(solver, variables, options)].sum())


def _scale_of(extra: Floats, first: Integers) -> tuple[float, float]:
    """Return the factor to whole numbers and what rounding them down may hide."""
    largest = float(np.maximum.reduceat(extra, first).sum())
    if largest < _PRECISION and bool((extra == np.rint(extra)).all()):
        return 1.0, 0.0
    scale = _PRECISION / largest
    return scale, first.size / scale


def _model(
    system: System, options: Integers, ceilings: Integers
) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    model = cp_model.CpModel()
    variables = [model.new_bool_var("") for _ in range(options.size)]
    group = system.group_of[options]
    cuts = np.searchsorted(group, np.arange(system.problem.groups + 1)).tolist()
    for start, stop in pairwise(cuts):
        model.add_exactly_one(variables[start:stop])
    for row, ceiling in zip(system.weights, ceilings.tolist(), strict=True):
        divisor = max(int(np.gcd.reduce(row[options])), 1)
        model.add(
            cp_model.LinearExpr.weighted_sum(variables, row[options] // divisor)
            <= ceiling // divisor
        )
    return model, variables


def _run(
    model: cp_model.CpModel, limits: Limits
) -> tuple[cp_model.CpSolver, cp_model.CpSolverStatus]:
    """Search on one thread with a fixed seed, so that equal input gives equal output.

    The search ends within a tenth of a second of `limits.is_over`: a client may be gone.
    """
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = max(limits.seconds_left(), 0.01)
    solver.parameters.max_deterministic_time = _EFFORT
    solver.parameters.relative_gap_limit = limits.relative_gap
    is_done = threading.Event()
    watch = threading.Thread(target=_stop_when_over, args=(solver, limits, is_done), daemon=True)
    watch.start()
    try:
        return solver, solver.solve(model)
    finally:
        is_done.set()
        watch.join()


def _stop_when_over(solver: cp_model.CpSolver, limits: Limits, is_done: threading.Event) -> None:
    while not is_done.wait(_LOOK_SECONDS):
        if limits.is_over():
            solver.stop_search()  # does nothing before the search has begun: asked again


def _chosen(
    solver: cp_model.CpSolver, variables: list[cp_model.IntVar], options: Integers
) -> Integers:
    taken = [bool(solver.value(variable)) for variable in variables]
    chosen: Integers = options[np.array(taken)]
    return chosen
