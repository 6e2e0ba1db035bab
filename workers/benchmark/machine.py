"""What a result was measured on: the machine, its software, and its memory bandwidth."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import mlx.core as mx
import psutil

from bitbudget.app.core.canonical import JsonObject
from bitbudget.distribution import installed_version

__all__ = ["BANDWIDTH_BYTES", "describe_device", "measure_bandwidth"]

BANDWIDTH_BYTES: Final = 256 * 2**20
"""Bytes rotated through while bandwidth is measured: more than any cache holds."""

_COPIES: Final = 4
_ROUNDS: Final = 3
_PACKAGES: Final = ("mlx", "mlx-lm")


def describe_device() -> JsonObject:
    """Return chip, memory in bytes, operating system, backend and versions."""
    metal = mx.metal.is_available()
    information = mx.device_info() if metal else {}
    return {
        "chip": str(information.get("device_name") or _processor()),
        "backend": "metal" if metal else "cpu",
        "memory_bytes": psutil.virtual_memory().total,
        "working_set_bytes": information.get("max_recommended_working_set_size"),
        "logical_cores": psutil.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES}
        | {"bitbudget": installed_version()},
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _median_seconds(operation: Callable[[mx.array], mx.array], arrays: list[mx.array]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        for array in arrays:
            start = time.perf_counter()
            mx.eval(operation(array))
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_bandwidth(total_bytes: int = BANDWIDTH_BYTES) -> float:
    """Return the bytes per second that MLX moves: the better of reading and of copying.

    The arrays rotate, so that no cache serves them. On a CPU this is MLX's single thread.
    """
    nbytes = total_bytes // _COPIES
    arrays = [mx.zeros((nbytes // 4,), dtype=mx.float32) + index for index in range(_COPIES)]
    mx.eval(arrays)
    return max(
        nbytes / _median_seconds(mx.max, arrays),
        2 * nbytes / _median_seconds(mx.negative, arrays),
    )
