"""A fast BLAS for MLX on Linux, whose wheel carries the reference one.

MLX calls `cblas_sgemm` and some of LAPACK by name. Preloading a library that offers those names and
forwards them to the OpenBLAS of `scipy-openblas32` takes float32 matmul from 4 to 100 GFLOP/s a
core. The variable must be set before the process starts, so it is the parent that does it.

Where an x86-64 processor has an AMX unit, large products of the same library run on it, two to
three times as fast again, with each value in two bfloat16 terms (`amx_tiles.h`): their relative
error is 4e-6 where that of float32 is 3e-7. BITBUDGET_MATMUL_PRECISION=highest turns it off.

The threads of one OpenBLAS product wait for each other by spinning: on a machine that is busy
otherwise they burn the time of the thread they wait for. So half of the cores is the default. Those
of a product on the AMX unit sleep, and take all cores; its sums are the same with any number of
them. OPENBLAS_NUM_THREADS sets both, BITBUDGET_MATMUL_THREADS those of the unit.

With the same variables glibc asks the kernel for huge pages, so that weights are read through fewer
entries of the page tables, and keeps what is freed: an activation is written into memory that the
last one left, not into new pages that the kernel clears first (docs/performance.md).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bitbudget.workers.native.build import NativeBuildError, targets
from bitbudget.workers.native.loader import library
from bitbudget.workers.native.threads import default_threads

__all__ = ["AMX_THREADS_VARIABLE", "THREADS_VARIABLE", "blas_threads", "preload_environment"]

THREADS_VARIABLE: Final = "OPENBLAS_NUM_THREADS"
AMX_THREADS_VARIABLE: Final = "BITBUDGET_MATMUL_THREADS"
_TUNABLES: Final = "GLIBC_TUNABLES"
_ALLOCATION: Final = {
    "glibc.malloc.hugetlb": "1",
    "glibc.malloc.mmap_threshold": str(1 << 27),
    "glibc.malloc.trim_threshold": str(1 << 29),
}
"""The kernel is advised to use transparent huge pages (glibc 2.35 and later), blocks below 128 MiB
are reused, and up to 512 MiB that are free wait for that."""


def blas_threads(environment: Mapping[str, str]) -> int:
    """Return how many threads OpenBLAS has in a process of this `environment`."""
    given = environment.get(THREADS_VARIABLE, "")
    return int(given) if given.isdecimal() and int(given) else default_threads()


def preload_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` with LD_PRELOAD of OpenBLAS in front, for a child that runs MLX.

    On Linux its allocator uses huge pages and keeps them. No preload on macOS, where
    `scipy-openblas32` is missing, and where a library's path holds a character that LD_PRELOAD
    separates by.
    """
    given = environment.get(THREADS_VARIABLE)
    child = {
        **environment,
        THREADS_VARIABLE: given or str(max(1, default_threads() // 2)),
        AMX_THREADS_VARIABLE: environment.get(AMX_THREADS_VARIABLE)
        or given
        or str(default_threads()),
    }
    present = child.get("LD_PRELOAD", "").replace(":", " ").split()
    wanted = [str(path) for path in _libraries()]
    if wanted and not any(" " in path or ":" in path for path in wanted):
        child["LD_PRELOAD"] = ":".join(dict.fromkeys([*wanted, *present]))
    if sys.platform == "linux":
        child[_TUNABLES] = _with_allocation(child.get(_TUNABLES, ""))
    return child


def _with_allocation(tunables: str) -> str:
    """Return glibc's tunables, separated by colons, with those of ours that they do not set."""
    given = [each for each in tunables.split(":") if each]
    names = {each.partition("=")[0] for each in given}
    return ":".join([*given, *(f"{k}={v}" for k, v in _ALLOCATION.items() if k not in names)])


def _libraries() -> tuple[Path, ...]:
    """Return the libraries to preload, none where they cannot be had."""
    openblas = _openblas()
    if openblas is None:
        return ()
    shims = [target.name for target in targets() if target.name.startswith("blas-shim")]
    try:
        return (*map(library, shims), openblas)
    except NativeBuildError:
        return ()


def _openblas() -> Path | None:
    if sys.platform != "linux" or importlib.util.find_spec("scipy_openblas32") is None:
        return None
    import scipy_openblas32  # noqa: PLC0415 - absent outside Linux workers

    found = Path(scipy_openblas32.get_lib_dir()) / f"lib{scipy_openblas32.get_library()}.so"
    return found if found.exists() else None
