"""What the curves of one layer of a large model cost: seconds of a processor and peak memory.

    OPENBLAS_NUM_THREADS=1 taskset -c 0 python -m benchmarks.curves [--whole] [--layers 36]

Every matrix of a Qwen3-8B layer, with random weights and made-up low-rank statistics, is measured
by `yaqa` in all affine formats in a process of its own. `--whole` codes all rows as well, in one
format, and says what the eighteen would cost.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import AFFINE_FORMATS, Format
from bitbudget.app.core.inventory import Module, ModuleKind
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.curves.exact import kl_curve
from bitbudget.workers.curves.sampled import sampled_curve
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.fisher.moments import FULL_ROWS
from bitbudget.workers.fisher.statistics import KroneckerTerm, ModuleStatistics
from bitbudget.workers.native.arrays import as_float32, from_float32

LAYER = {
    "q_proj": (4096, 4096),
    "k_proj": (1024, 4096),
    "v_proj": (1024, 4096),
    "o_proj": (4096, 4096),
    "gate_proj": (12288, 4096),
    "up_proj": (12288, 4096),
    "down_proj": (4096, 12288),
}
"""Matrices of one layer of Qwen3-8B, (out, in)."""
_RANK = 256


def second_moment(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a float32 matrix of trace one: a decaying spectrum on a noisy diagonal."""
    factor = rng.normal(size=(size, _RANK)).astype(np.float32)
    factor *= np.sqrt(1 / np.arange(1, _RANK + 1, dtype=np.float32))
    factor *= np.exp(0.5 * rng.normal(size=(size, 1)).astype(np.float32))
    matrix = factor @ factor.T
    diagonal = np.einsum("ii->i", matrix)
    diagonal += float(diagonal.mean()) * rng.random(size, dtype=np.float32)
    matrix /= np.float32(np.trace(matrix, dtype=np.float64))
    return np.asarray(matrix)


def problem(name: str) -> tuple[Module, np.ndarray, ModuleStatistics]:
    """Return a module with its weight and statistics."""
    out, width = LAYER[name]
    rng = np.random.default_rng(len(name))
    weight = np.empty((out, width), np.uint16)
    for begin in range(0, out, 512):
        values = rng.normal(size=(min(512, out - begin), width)).astype(np.float32)
        weight[begin : begin + 512] = from_float32(0.02 * values, Dtype.BF16)
    whole = second_moment(out, rng) if out <= FULL_ROWS else None
    rows = np.exp(rng.normal(size=out)).astype(np.float32) / out if whole is None else whole
    term = KroneckerTerm(second_moment(width, rng), rows)
    statistics = ModuleStatistics(
        name, 1.0, np.ones(out), np.ones(width), (term,), np.array(1 << 14)
    )
    return Module(name, ModuleKind.LINEAR, (out, width), Dtype.BF16, name), weight, statistics


def measure(name: str, *, whole: bool) -> dict[str, Any]:
    """Return the cost of one matrix; memory is that of everything, statistics included."""
    module, weight, statistics = problem(name)
    held = weight.nbytes + sum(t.columns.nbytes + t.rows.nbytes for t in statistics.terms)
    start = time.process_time()
    points = sampled_curve(module, [weight], AFFINE_FORMATS, Encoder.YAQA, statistics)
    result = {
        "module": name,
        "sampled_cpu_s": time.process_time() - start,
        "peak_gib": _peak_bytes() / 2**30,
        "inputs_gib": held / 2**30,
        "relative_error": max(point.t2_relative_error for point in points),
    }
    if whole:
        result |= _whole(module, weight, statistics, points[AFFINE_FORMATS.index(_ONE)].kl_nats)
    return result


_ONE = Format(AFFINE_FORMATS[0].mode, 4, 64)


def _whole(
    module: Module, weight: np.ndarray, statistics: ModuleStatistics, sampled: float
) -> dict[str, Any]:
    """Return what coding all rows costs, of which the factors are made once for all formats."""
    values, term = as_float32(weight, module.dtype), statistics.terms[0]
    rows = term.rows if term.rows.ndim > 1 else np.ones(len(values), np.float32)
    factors = _seconds(lambda: Feedback.against(term.columns, rows))
    found: list[float] = []

    def once() -> None:
        points = kl_curve(module, values, [_ONE], Encoder.YAQA, statistics)
        found.append(points[0].kl_nats)

    one = _seconds(once)
    return {
        "whole_cpu_s": factors + len(AFFINE_FORMATS) * (one - factors),
        "sampled_over_whole_kl": sampled / found[0],
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def main() -> None:
    """Print one line of JSON for each matrix, then what a model of so many layers costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", choices=LAYER)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--layers", type=int, default=36)
    options = parser.parse_args()
    if options.module:
        print(json.dumps(measure(options.module, whole=options.whole)))
        return
    results = [_apart(name, whole=options.whole) for name in LAYER]
    keys = [key for key in ("sampled_cpu_s", "whole_cpu_s") if key in results[0]]
    layer = {key: sum(result[key] for result in results) for key in keys}
    hours = {key: options.layers * value / 3600 for key, value in layer.items()}
    print(json.dumps({"layer": layer, f"hours_of_{options.layers}_layers": hours}))


def _apart(name: str, *, whole: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.curves", "--module", name]
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(
        [*command, *(["--whole"] if whole else [])],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    print(done.stdout.strip(), flush=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
