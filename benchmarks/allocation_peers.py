"""Knapsacks of real shape, and how others solve them."""

from __future__ import annotations

import heapq
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import ALL_FORMATS, KEEP, Format, Mode
from bitbudget.app.core.mckp import Problem

__all__ = ["NOISE", "Instance", "budget_of", "cp_sat", "highs", "instance", "mint_greedy", "optiq"]

NOISE: Final = {"convex": 0.0, "ragged": 0.3}
_SQNR_PER_BIT_DB: Final = 6.3
_SQNR_AT_2_BITS_DB: Final = 7.7
_DENSE: Final = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096)]
_DENSE_MLP: Final = [(12288, 4096), (12288, 4096), (4096, 12288)]
_MOE: Final = [(4096, 2048), (512, 2048), (512, 2048), (2048, 4096)]
_EXPERTS: Final = 128
_SHARED: Final = 0.1


@dataclass(frozen=True)
class Instance:
    """A knapsack with the bytes that each option reads per decoded token."""

    name: str
    bytes: NDArray[np.int64]
    costs: NDArray[np.float64]
    read: NDArray[np.int64]
    weights: NDArray[np.int64]

    @property
    def problem(self) -> Problem:
        """The problem without rows."""
        return Problem.from_matrix(self.bytes, self.costs)


def shapes(name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return weights per group and the share of them read per token."""
    if name == "qwen3-8b":
        own = [a * b for a, b in [*_DENSE, *_DENSE_MLP] * 36] + [151_936 * 4096] * 2
        return np.array(own), np.array([1.0] * (len(own) - 2) + [0.0, 1.0])
    if name == "100k":
        random = np.random.default_rng(7)
        sizes = [768 * 2048, 1024 * 4096, 2048 * 4096, 512 * 2048, 1536 * 2048]
        own_sizes = random.choice(sizes, 100_000, p=[0.6, 0.1, 0.1, 0.1, 0.1])
        return own_sizes, np.where(random.random(100_000) < _SHARED, 1.0, 1 / 16)
    is_stacked = name == "qwen3-30b-a3b stacked"
    copies, size = (3, _EXPERTS * 768 * 2048) if is_stacked else (3 * _EXPERTS, 768 * 2048)
    layer = [a * b for a, b in _MOE] + [size] * copies
    share = [1.0] * 4 + [8 / _EXPERTS] * copies
    others = [128 * 2048] * (48 if is_stacked else 193) + [151_936 * 2048] * 2
    return (
        np.array(layer * 48 + others),
        np.array(share * 48 + [1.0] * (len(others) - 2) + [0.0, 1.0]),
    )


def instance(name: str, curves: str, seed: int = 0) -> Instance:
    """Return a seeded instance with the 22 formats of the product."""
    weights, share = shapes(name)
    random = np.random.default_rng(seed)
    rates = np.array([format_.bits_per_weight(Dtype.BF16) for format_ in ALL_FORMATS])
    header = 8 * random.integers(40, 60, (weights.size, 1))
    bytes_ = (weights[:, None] * rates / 8).astype(np.int64) + header
    t2 = np.array([_t2(rate, f) for rate, f in zip(rates, ALL_FORMATS, strict=True)])
    noise = np.exp(NOISE[curves] * random.standard_normal(bytes_.shape))
    alpha = weights * 4e-10 * np.exp(1.5 * random.standard_normal(weights.size))
    read = (bytes_ * share[:, None]).astype(np.int64)
    return Instance(name, bytes_, alpha[:, None] * t2 * noise, read, weights)


def _t2(rate: float, format_: Format) -> float:
    if format_ == KEEP:
        return 0.0
    worse = 1.0 if format_.mode is Mode.AFFINE else 1.6
    decibel = _SQNR_AT_2_BITS_DB + _SQNR_PER_BIT_DB * (rate - 2.5)
    return float(worse * 10 ** (-decibel / 10))


def budget_of(data: Instance, share: float) -> int:
    """Return the bytes at a share of the way from the smallest to the largest size."""
    least, most = int(data.bytes.min(axis=1).sum()), int(data.bytes.max(axis=1).sum())
    return least + int(share * (most - least))


def mint_greedy(data: Instance, budget: int) -> float:
    """Upgrade the module with the largest benefit per byte to its next better option that fits."""
    order = np.argsort(data.bytes, axis=1, kind="stable")
    steps = [_better(data.bytes[i, row], data.costs[i, row]) for i, row in enumerate(order)]
    left = budget - sum(row[0][0] for row in steps)
    place = [0] * len(steps)
    heap = [(-_benefit(row, 0), i) for i, row in enumerate(steps) if len(row) > 1]
    heapq.heapify(heap)
    while heap:
        _, i = heapq.heappop(heap)
        row, at = steps[i], place[i]
        size = row[at + 1][0] - row[at][0]
        if size > left:
            continue
        left -= size
        place[i] = at + 1
        if at + 2 < len(row):
            heapq.heappush(heap, (-_benefit(row, at + 1), i))
    return math.fsum(row[at][1] for row, at in zip(steps, place, strict=True))


def _better(bytes_: NDArray[np.int64], costs: NDArray[np.float64]) -> list[tuple[int, float]]:
    kept: list[tuple[int, float]] = []
    for nbytes, cost in zip(bytes_.tolist(), costs.tolist(), strict=True):
        if not kept or cost < kept[-1][1]:
            kept.append((nbytes, cost))
    return kept


def _benefit(row: list[tuple[int, float]], at: int) -> float:
    return (row[at][1] - row[at + 1][1]) / max(row[at + 1][0] - row[at][0], 1)


def cp_sat(data: Instance, budget: int, limit: float) -> tuple[float, float, str]:
    """Return objective, gap and status of CP-SAT on the whole problem."""
    from ortools.sat.python import cp_model  # noqa: PLC0415 - one solver per process

    model = cp_model.CpModel()
    scale = 2.0**40 / data.costs.max(axis=1).sum()
    rows = [[model.new_bool_var("") for _ in range(data.bytes.shape[1])] for _ in data.bytes]
    for row in rows:
        model.add_exactly_one(row)
    flat = [variable for row in rows for variable in row]
    total = cp_model.LinearExpr.weighted_sum(flat, data.bytes.ravel())
    model.add(total <= budget)
    whole = np.rint(data.costs * scale).astype(np.int64).ravel()
    model.minimize(cp_model.LinearExpr.weighted_sum(flat, whole))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = os.cpu_count() or 1
    solver.parameters.max_time_in_seconds = limit
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return math.inf, math.inf, "nothing found"
    chosen = np.array([solver.value(variable) for variable in flat], dtype=bool)
    objective = float(data.costs.ravel()[chosen].sum())
    bound = solver.best_objective_bound / scale
    proven = "optimal" if status == cp_model.OPTIMAL else "feasible"
    return objective, max(0.0, (objective - bound) / objective), proven


def highs(data: Instance, budget: int, limit: float) -> tuple[float, float, str]:
    """Return objective, gap and status of HiGHS; to be called in a process of its own."""
    from ortools.math_opt.python import mathopt  # noqa: PLC0415 - HiGHS needs its own process

    model = mathopt.Model()
    flat, costs, bytes_ = [], data.costs / data.costs.mean(), data.bytes / 2.0**20
    for _ in data.bytes:
        row = [model.add_binary_variable() for _ in range(data.bytes.shape[1])]
        model.add_linear_constraint(sum(row) == 1)
        flat += row
    used = mathopt.LinearSum(v * b for v, b in zip(flat, bytes_.ravel().tolist(), strict=True))
    model.add_linear_constraint(used <= budget / 2.0**20)
    model.minimize(
        mathopt.LinearSum(v * c for v, c in zip(flat, costs.ravel().tolist(), strict=True))
    )
    parameters = mathopt.SolveParameters(
        time_limit=timedelta(seconds=limit), relative_gap_tolerance=0.0
    )
    result = mathopt.solve(model, mathopt.SolverType.HIGHS, params=parameters)
    if not result.has_primal_feasible_solution():
        return math.inf, math.inf, "nothing found"
    value, bound = result.objective_value(), result.dual_bound()
    is_optimal = result.termination.reason == mathopt.TerminationReason.OPTIMAL
    gap = max(0.0, (value - bound) / value)
    return value * float(data.costs.mean()), gap, "optimal" if is_optimal else "feasible"


_OPTIQ: Final = """
import json, sys
sys.path.insert(0, sys.argv[1])
from optiq.core.optimizer import optimize_mixed_precision
from optiq.core.sensitivity import SensitivityResult
task = json.load(sys.stdin)
results = [SensitivityResult(n, {int(b): c for b, c in s.items()}, p) for n, s, p in task["layers"]]
import io, contextlib
with contextlib.redirect_stdout(io.StringIO()):
    done = optimize_mixed_precision(results, target_bpw=task["target"], protect_first_last=False,
                                    n_floor_per_block=0, max_low_bit_run=0)
print(json.dumps([c.bits for c in done.configs]))
"""


def optiq(data: Instance, budget: int, folder: Path) -> tuple[float, int]:
    """Return objective and bytes of mlx-optiq's greedy over the widths at group size 64.

    Its target counts code bits without scales and is a floor that it overshoots; its guards are
    switched off so that only the allocation is compared, at the bytes that it reaches.
    """
    places = [i for i, f in enumerate(ALL_FORMATS) if f.mode is Mode.AFFINE and f.group_size == 64]  # noqa: PLR2004
    bits = [ALL_FORMATS[i].bits for i in places]
    target = 8 * budget / float(data.weights.sum()) - 0.5
    layers = [
        (f"model.layers.{i}.w", dict(zip(bits, row[places].tolist(), strict=True)), int(weights))
        for i, (row, weights) in enumerate(zip(data.costs, data.weights, strict=True))
    ]
    task = json.dumps({"layers": layers, "target": target})
    done = subprocess.run(
        [sys.executable, "-c", _OPTIQ, str(folder)],
        input=task,
        capture_output=True,
        text=True,
        check=True,
    )
    chosen = [places[bits.index(b)] for b in json.loads(done.stdout.splitlines()[-1])]
    rows = np.arange(len(chosen))
    return math.fsum(data.costs[rows, chosen].tolist()), int(data.bytes[rows, chosen].sum())
