"""Choose the library that suits this processor and load it; ctypes releases the GIL in calls."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Final

from bitbudget.workers.native.build import NativeBuildError, Target, build, library_path, targets

__all__ = ["kernels", "library", "supported_variants"]

_V3: Final = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"})
_V4: Final = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_NEEDS: Final = {"kernels-arm64": frozenset[str](), "kernels-x86-64-v3": _V3}
_NEEDS_ALL: Final = {**_NEEDS, "kernels-x86-64-v4": _V4}


def _processor_flags() -> frozenset[str]:
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return frozenset()
    for line in information.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def supported_variants() -> tuple[str, ...]:
    """Return the names of the kernel libraries that this processor can run, the fastest last."""
    flags = _processor_flags()
    names = [target.name for target in targets()]
    return tuple(name for name in names if name in _NEEDS_ALL and _NEEDS_ALL[name] <= flags)


def library(name: str) -> Path:
    """Return the path of the library called `name`, built if it is missing.

    Raises NativeBuildError when it cannot be, or when this system has none of that name.
    """
    for target in targets():
        if target.name == name:
            return _present(target)
    raise NativeBuildError(
        reason=f"there is no library {name} for this system",
        remedy="measure and quantize on Linux (x86-64 or arm64) or on a Mac with Apple silicon",
    )


def _present(target: Target) -> Path:
    path = library_path(target)
    return path if path.exists() else build((target,))[0]


@functools.cache
def kernels(variant: str | None = None) -> ctypes.CDLL:
    """Load the kernels, by default the fastest variant that the processor supports.

    Raises NativeBuildError when there is none for this processor.
    """
    variants = supported_variants()
    if not variants:
        raise NativeBuildError(
            reason="this processor lacks AVX2, FMA or F16C (x86-64-v3)",
            remedy="measure on a processor made since about 2015",
        )
    return ctypes.CDLL(str(library(variant or variants[-1])))
