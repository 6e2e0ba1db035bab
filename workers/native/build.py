"""Compile the kernels beside their sources: `python -m bitbudget.workers.native.build`.

The compiler is the pip package `ziglang` (clang with every target's headers), so that neither a
user nor a developer needs one from elsewhere. The kernels are freestanding C++ without exceptions,
RTTI or the standard library: nothing but the sources is compiled. A library's name carries the
digest of the sources, so a stale one is never loaded.

Floating point is strict: no contraction that the source does not ask for, no fast-math. That makes
results the same bits in every variant.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitbudget.app.core.errors import BitbudgetError

__all__ = ["NativeBuildError", "Target", "build", "library_path", "targets"]

FOLDER: Final = Path(__file__).resolve().parent
_LANGUAGE: Final = ("-std=c++20", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden")
_ARITHMETIC: Final = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_LINKING: Final = ("-shared", "-fPIC", "-nostdlib", "-Wl,-s")


class NativeBuildError(BitbudgetError):
    """The compiler refused the native kernels."""

    template = "The kernels cannot be compiled: {reason}; {remedy}."

    def __init__(self, *, reason: str, remedy: str) -> None:
        super().__init__(reason=reason, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Target:
    """One library: a source file compiled for one kind of processor.

    `triple` and `processor` are zig's names of the system and of the instruction set.
    """

    name: str
    source: str
    triple: str
    processor: str

    @property
    def suffix(self) -> str:
        """The ending of a shared library on the target's system."""
        return ".dylib" if "macos" in self.triple else ".so"


def targets(system: str = sys.platform, machine: str | None = None) -> tuple[Target, ...]:
    """Return what is built on `system` and `machine`: none where there is no MLX either."""
    kind = (machine or platform.machine()).lower()
    if system == "darwin" and kind == "arm64":
        return (Target("kernels-arm64", "kernels.cpp", "aarch64-macos.14.0", "apple_m1"),)
    if system != "linux":
        return ()
    if kind in {"aarch64", "arm64"}:
        triple = "aarch64-linux-gnu"
        return (
            Target("kernels-arm64", "kernels.cpp", triple, "generic"),
            Target("blas-shim-arm64", "blas_shim.cpp", triple, "generic"),
        )
    if kind not in {"x86_64", "amd64"}:
        return ()
    triple = "x86_64-linux-gnu"
    return (
        Target("kernels-x86-64-v3", "kernels.cpp", triple, "x86_64_v3"),
        Target("kernels-x86-64-v4", "kernels.cpp", triple, "x86_64_v4"),
        Target("blas-shim-x86-64", "blas_shim.cpp", triple, "x86_64"),
    )


def library_path(target: Target) -> Path:
    """Return where the library of `target` lies once it is built from the present sources."""
    digest = hashlib.sha256()
    for source in sorted((*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h"), Path(__file__))):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return FOLDER / f"{target.name}-{digest.hexdigest()[:12]}{target.suffix}"


def build(wanted: tuple[Target, ...] | None = None) -> tuple[Path, ...]:
    """Compile what is missing, remove what is stale and return the libraries.

    Raises NativeBuildError when there is no compiler or it fails.
    """
    chosen = targets() if wanted is None else wanted
    return tuple(_build_one(target) for target in chosen)


def _build_one(target: Target) -> Path:
    library = library_path(target)
    if not library.exists():
        with tempfile.TemporaryDirectory(prefix="bitbudget-native-") as scratch:
            _compile(target, library, Path(scratch))
    for stale in FOLDER.glob(f"{target.name}-*{target.suffix}"):
        if stale != library:
            stale.unlink(missing_ok=True)
    return library


def _compile(target: Target, library: Path, scratch: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        raise NativeBuildError(
            reason="the Python package ziglang, which brings the compiler, is not installed",
            remedy="run `pip install ziglang` and then `python -m bitbudget.workers.native.build`",
        )
    beside = library.with_suffix(f".{os.getpid()}.partial")
    machine = ("-target", target.triple, f"-mcpu={target.processor}")
    flags = (*_LANGUAGE, *_ARITHMETIC, *_LINKING, *machine)
    command = [sys.executable, "-m", "ziglang", "c++", *flags, str(FOLDER / target.source)]
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(scratch), "ZIG_LOCAL_CACHE_DIR": str(scratch)}
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"} | caches
    run = subprocess.run(  # the linker writes beside the library so that the rename is atomic
        [*command, "-o", str(beside)], env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode != 0 or not beside.exists():
        beside.unlink(missing_ok=True)
        raise NativeBuildError(
            reason=f"zig c++ for {target.name} ended with {run.returncode}: {run.stderr[-2000:]}",
            remedy=f"check that {FOLDER} is writable and the temporary folder has 200 MB free, "
            "then run `python -m bitbudget.workers.native.build` and report its output",
        )
    beside.replace(library)


def main() -> None:
    """Build every library of this machine and say where they are."""
    for library in build():
        sys.stdout.write(f"{library}\n")


if __name__ == "__main__":
    main()
