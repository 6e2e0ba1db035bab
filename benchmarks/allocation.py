"""The allocator against others, on instances of real shape: seconds, proven gap, equal bytes.

    python benchmarks/allocation.py [--quick] [--limit SECONDS] [--optiq FOLDER] [--json FILE]

Peers: OR-Tools CP-SAT on the whole problem, HiGHS through OR-Tools MathOpt (a process of its own),
a benefit-per-byte greedy upgrade as MINT describes it, and mlx-optiq's own optimizer from an
unpacked `mlx-optiq==0.7.7` in FOLDER (`pip install --no-deps --target FOLDER mlx-optiq==0.7.7`).
Curves are synthetic: Gaussian errors per format, log-normal sensitivities, seeded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.allocation_models import headers_30b, measured
from benchmarks.allocation_peers import (
    NOISE,
    Instance,
    budget_of,
    cp_sat,
    highs,
    instance,
    mint_greedy,
    optiq,
)
from bitbudget.app.core.frontier import frontier
from bitbudget.app.core.mckp import Limits, Problem, Row, prepare, solve_prepared, solve_problem
from bitbudget.app.core.mckp.single.many import solve_many

CLOCK: Final = os.environ.get("BENCHMARK_CLOCK", "wall")
"""`cpu` times this process alone, for a machine that is busy with other work."""

_HUGE: Final = 50_000
"""Groups from which the comparison is made at one budget only."""

BUDGETS: Final = {"tight": 0.05, "usual": 0.2, "loose": 0.4}
"""Share of the way from the smallest to the largest size."""


@dataclass(frozen=True)
class Result:
    """One solver on one instance at one budget."""

    instance: str
    curves: str
    budget: str
    solver: str
    seconds: float
    objective: float
    gap: float
    status: str
    above_ours: float = 0.0


def _now() -> float:
    """Seconds of this process's own work: other work on the machine does not count."""
    return time.process_time() if CLOCK == "cpu" else time.perf_counter()


def ours(data: Instance, budget: int, repeats: int) -> tuple[float, float, float, str]:
    """Return median seconds with preparation, objective, gap and status."""
    seconds = []
    problem = data.problem
    for _ in range(repeats):
        started = _now()
        solution = solve_prepared(prepare(problem), budget)
        seconds.append(_now() - started)
    return statistics.median(seconds), solution.objective, solution.gap, solution.status.value


def compare(data: Instance, curves: str, options: argparse.Namespace) -> list[Result]:
    """Run everything on one instance."""
    results = []
    is_small = len(data.bytes) < 1000  # noqa: PLR2004 - what whole-problem solvers can take
    chosen = BUDGETS if len(data.bytes) < _HUGE else {"usual": BUDGETS["usual"]}
    for label, share in chosen.items():
        budget = budget_of(data, share)
        key = (data.name, curves, label)
        seconds, best, gap, status = ours(data, budget, options.repeats)
        results.append(Result(*key, "bitbudget", seconds, best, gap, status))
        started = _now()
        value = mint_greedy(data, budget)
        seconds = _now() - started
        results.append(_peer(key, "greedy (MINT)", seconds, value, best))
        if not is_small or options.quick:
            continue
        started = _now()
        value, gap, status = cp_sat(data, budget, options.limit)
        seconds = _now() - started
        results.append(_peer(key, "CP-SAT, whole", seconds, value, best, gap, status))
        results.append(_highs_apart(key, budget, best, options))
        if options.optiq is not None:
            value, used = optiq(data, budget, options.optiq)
            _, same, _, _ = ours(data, used, 1)
            results.append(_peer(key, "mlx-optiq 0.7.7 (at its bytes)", 0.0, value, same))
    return results


def _peer(  # noqa: PLR0917 - a row of the table
    key: tuple[str, str, str],
    solver: str,
    seconds: float,
    value: float,
    best: float,
    gap: float = math.nan,
    status: str = "no proof",
) -> Result:
    return Result(*key, solver, seconds, value, gap, status, value / best - 1)


def _highs_apart(
    key: tuple[str, str, str], budget: int, best: float, options: argparse.Namespace
) -> Result:
    started = time.perf_counter()
    command = [sys.executable, __file__, "--highs", key[0], key[1], str(budget)]
    done = subprocess.run(
        [*command, "--limit", str(options.limit)], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        return _peer(key, "HiGHS, whole", seconds, math.inf, best, math.inf, "failed")
    value, gap, status = json.loads(done.stdout.splitlines()[-1])
    return _peer(key, "HiGHS, whole", seconds, value, best, gap, status)


_PROVEN: Final = (("qwen3-8b", 0.02), ("qwen3-30b-a3b stacked", 0.02), ("qwen3-30b-a3b", 0.3))


def targets(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what the project promises; medians over budgets and curves."""
    rows = []
    for name, limit in _PROVEN:
        runs = [
            ours(instance(name, curves), budget_of(instance(name, curves), share), options.repeats)
            for curves in NOISE
            for share in BUDGETS.values()
        ]
        proven = all(run[3] == "optimal" for run in runs)
        rows.append(_target(f"{name}: proven optimal", [run[0] for run in runs], limit, proven))
    rows += [_large(), _thousand(), _frontier(), _fit()]
    return [*rows, *(_second_row(*case) for case in _SECOND_ROWS)]


_SECOND_ROWS: Final = (("qwen3-8b", 1e-3), ("qwen3-30b-a3b", 1e-4))


def _target(what: str, seconds: list[float], limit: float, is_met: bool) -> dict[str, Any]:  # noqa: FBT001
    median = statistics.median(seconds)
    met = is_met and median <= limit
    return {
        "what": what,
        "median_seconds": median,
        "worst_seconds": max(seconds),
        "target_seconds": limit,
        "met": met,
    }


def _large() -> dict[str, Any]:
    seconds, gaps = [], []
    for curves in NOISE:
        data = instance("100k", curves)
        problem = data.problem
        started = _now()
        solution = solve_prepared(prepare(problem), budget_of(data, 0.2), Limits(relative_gap=1e-6))
        seconds.append(_now() - started)
        gaps.append(solution.gap)
    return _target(f"100k groups: gap {max(gaps):.1e} <= 1e-6", seconds, 2.0, max(gaps) <= 1e-6)  # noqa: PLR2004


def _thousand() -> dict[str, Any]:
    seconds, worst = [], 0.0
    for curves in NOISE:
        data = instance("qwen3-30b-a3b", curves)
        prepared = prepare(data.problem)
        shares = np.linspace(0.01, 0.5, 1000)
        budgets = [budget_of(data, float(share)) for share in shares]
        started = _now()
        many = solve_many(prepared, budgets, Limits(relative_gap=1e-5))
        seconds.append(_now() - started)
        worst = max(worst, float(many.gap.max()))
    return _target(f"1000 budgets: gaps {worst:.1e} <= 1e-5", seconds, 1.0, worst <= 1.01e-5)  # noqa: PLR2004


def _frontier() -> dict[str, Any]:
    """Measure the page's frontier of the stacked model, uniform and mixed points marked."""
    with tempfile.TemporaryDirectory() as folder:
        data = measured(headers_30b(Path(folder)))
    seconds, points = [], 0
    for _ in range(5):
        started = _now()
        found = frontier(data)
        seconds.append(_now() - started)
        points = len(found.breakpoints)
    marked = len(found.uniform) + len(found.recipes)
    what = f"frontier, {points} breakpoints, {marked} marked"
    return _target(what, seconds, 0.5, bool(found.uniform and found.recipes))


def _fit() -> dict[str, Any]:
    """Measure the command `fit` on the headers of a 30B model: the processes' whole wall time."""
    seconds, fits = [], 0
    with tempfile.TemporaryDirectory() as folder:
        model = headers_30b(Path(folder))
        command = [sys.executable, "-m", "bitbudget.app.cli", "fit", str(model)]
        for _ in range(5):
            started = time.perf_counter()
            done = subprocess.run(
                [*command, "--device", "m4-max-128gb", "--json"],
                capture_output=True,
                text=True,
                check=True,
            )
            seconds.append(time.perf_counter() - started)
            fits = sum(choice["fits"] for choice in json.loads(done.stdout)["uniform"])
    return _target(f"fit on 18,867 headers, {fits} formats fit", seconds, 1.0, fits > 0)


def _second_row(name: str, gap: float) -> dict[str, Any]:
    seconds, gaps = [], []
    for curves in NOISE:
        data = instance(name, curves)
        budget = budget_of(data, 0.2)
        free = solve_prepared(prepare(data.problem), budget)
        least = int(data.read.min(axis=1).sum())
        used = int(data.read.ravel()[free.choice].sum())
        for share in (0.9, 0.7, 0.3):
            row = Row("decode", least + int(share * (used - least)), data.read.ravel())
            plain = data.problem
            problem = Problem(plain.offsets, plain.bytes, plain.costs, (row,))
            started = _now()
            solution = solve_problem(problem, budget, Limits(relative_gap=gap))
            seconds.append(_now() - started)
            gaps.append(solution.gap)
    met = max(gaps) <= gap
    return _target(f"{name}, decode row: gap {max(gaps):.1e} <= {gap:.0e}", seconds, 1.0, met)


def never_worse(results: list[Result]) -> list[dict[str, Any]]:
    """Say of each peer by how much it is above ours at equal bytes, and that none is below."""
    rows = []
    for solver in dict.fromkeys(r.solver for r in results if r.solver != "bitbudget"):
        above = [
            r.above_ours for r in results if r.solver == solver and math.isfinite(r.above_ours)
        ]
        if above:
            least, most = min(above), max(above)
            rows.append(
                {
                    "what": f"{solver}: {least:.1e} to {most:.1e} above ours at equal bytes",
                    "least_above_ours": least,
                    "most_above_ours": most,
                    "met": least >= -1e-12,  # noqa: PLR2004
                }
            )
    return rows


def show(results: list[Result], rows: list[dict[str, Any]]) -> None:
    """Print both tables."""
    print(
        f"{'instance':24}{'curves':8}{'budget':8}{'solver':32}{'seconds':>9}{'gap':>10}"
        f"{'above ours':>12}  status"
    )
    for r in results:
        print(
            f"{r.instance:24}{r.curves:8}{r.budget:8}{r.solver:32}{r.seconds:9.3f}{r.gap:10.1e}"
            f"{r.above_ours:12.2e}  {r.status}"
        )
    print()
    for row in rows:
        times = ""
        if "median_seconds" in row:
            times = (
                f" median {row['median_seconds']:.3f} s, worst {row['worst_seconds']:.3f} s"
                f" (target {row['target_seconds']} s)"
            )
        print(f"{'met   ' if row['met'] else 'MISSED'} {row['what']:58}{times}")


def main() -> None:
    """Parse the options, run, print, and write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="only the fast solvers")
    parser.add_argument("--limit", type=float, default=4.0, help="seconds for whole-problem peers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--optiq", type=Path, help="folder with an unpacked mlx-optiq")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--highs", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.highs:
        name, curves, budget = options.highs
        print(json.dumps(highs(instance(name, curves), int(budget), options.limit)))
        return
    solve_problem(_warm_up(), 2)
    names = ("qwen3-8b", "qwen3-30b-a3b stacked", "qwen3-30b-a3b", "100k")
    results: list[Result] = []
    for name in names:
        for curves in NOISE:
            results += compare(instance(name, curves), curves, options)
            print(f"{name}, {curves}: done", file=sys.stderr, flush=True)
    rows = targets(options)
    rows += never_worse(results)
    print(f"{machine()}, {os.cpu_count()} cores, {CLOCK} time")
    show(results, rows)
    if options.json is not None:
        document = {
            "machine": machine(),
            "cores": os.cpu_count(),
            "clock": CLOCK,
            "results": [asdict(result) for result in results],
            "targets": rows,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def machine() -> str:
    """Return the processor's name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _warm_up() -> Problem:
    """Return a problem whose row makes the solver load OR-Tools before anything is timed."""
    row = Row("r", 0, np.array([1, 0]))
    return Problem(np.array([0, 2]), np.array([1, 2]), np.array([0.0, 1.0]), (row,))


if __name__ == "__main__":
    main()
