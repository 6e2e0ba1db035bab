"""Compiling the machine and the kernels with clang, cached by content."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from tests.metal_emulator.source import to_opencl

__all__ = [
    "PRELUDE",
    "CompileError",
    "cache_folder",
    "compile_kernel",
    "compiler",
    "include_folders",
    "machine",
]

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parent.parent
_MACHINE_FLAGS = ("-O2", "-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Werror")
KERNEL_FLAGS = (
    *("-x", "cl", "-cl-std=clc++2021", "-cl-no-stdinc", "-cl-single-precision-constant"),
    *("-O2", "-fPIC", "-Wno-unknown-attributes", "-Wno-unknown-pragmas"),
    *("-Xclang", "-ffloat16-excess-precision=none"),
    *("-Xclang", "-fbfloat16-excess-precision=none"),
)
COUNTING_FLAGS = (
    "-fsanitize-coverage=func,trace-loads,trace-stores",
    "-fno-vectorize",
    "-fno-slp-vectorize",
)
TSAN_FLAGS = ("-fsanitize=thread", "-DEMU_TSAN", "-g")
PRELUDE = '#include <metal_stdlib>\n#include "mlx/backend/metal/kernels/utils.h"\n'
"""What every kernel begins with."""
_STANDARD_HEADERS = (
    *("metal_atomic", "metal_common", "metal_compute", "metal_geometric", "metal_integer"),
    *("metal_limits", "metal_math", "metal_numeric", "metal_relational", "metal_simdgroup"),
    *("metal_simdgroup_matrix", "metal_type_traits"),
)


class CompileError(Exception):
    """clang refused the source."""


@lru_cache
def compiler() -> str | None:
    """Return clang 19's path, or None where it is not installed."""
    return os.environ.get("BITBUDGET_CLANG") or shutil.which("clang++-19")


@lru_cache
def cache_folder() -> Path:
    """Where compiled kernels are kept between runs: pytest's cache."""
    folder = _REPOSITORY / ".pytest_cache" / "d" / "metal_emulator"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor_flags() -> tuple[str, ...]:
    return ("-march=x86-64-v3",) if platform.machine() == "x86_64" else ()


@lru_cache
def _emulator_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(_HERE.rglob("*")):
        if path.is_file() and path.suffix in {".h", ".cpp", ""}:
            digest.update(path.read_bytes())
    for name in ("source.py", "toolchain.py"):
        digest.update((_HERE / name).read_bytes())
    return digest.hexdigest()


def _run_clang(arguments: list[str], output: Path) -> Path:
    clang = compiler()
    if clang is None:
        raise CompileError("clang++-19 is not installed")
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        partial = Path(folder) / output.name
        command = [clang, *arguments, "-o", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompileError(done.stderr)
        partial.replace(output)
    return output


@lru_cache
def include_folders() -> tuple[Path, Path]:
    """Return the folders of our Metal header and of the kernels' headers in the mlx wheel.

    Both are rewritten copies in the cache.
    """
    folder = cache_folder() / f"include-{version('mlx')}-{_emulator_digest()[:12]}"
    if not folder.exists():
        partial = Path(tempfile.mkdtemp(dir=cache_folder()))
        _write_headers(partial)
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return _HERE / "include", folder


def _write_headers(folder: Path) -> None:
    for name in _STANDARD_HEADERS:
        (folder / name).write_text("#include <metal_stdlib>\n", encoding="utf-8")
    root = mlx_headers()
    for path in (root / "mlx/backend/metal/kernels").rglob("*.h"):
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        copy.write_text(to_opencl(text, path.name), encoding="utf-8")


def mlx_headers() -> Path:
    """Return the include folder of the installed mlx wheel."""
    import mlx  # noqa: PLC0415 - a namespace package without stubs, needed for its path only

    return Path(next(iter(mlx.__path__))) / "include"


@lru_cache
def machine() -> ctypes.CDLL:
    """Compile and load the machine that runs kernels; its symbols are global for them."""
    output = cache_folder() / f"machine-{_emulator_digest()[:16]}.so"
    if not output.exists():
        sources = [str(_HERE / "runtime" / name) for name in ("scheduler.cpp", "buffers.cpp")]
        _run_clang([*_MACHINE_FLAGS, "-shared", *sources], output)
    return ctypes.CDLL(str(output), mode=ctypes.RTLD_GLOBAL)


def compile_kernel(source: str, flags: tuple[str, ...] = (), *, link: str = "shared") -> Path:
    """Compile OpenCL `source` that defines `emu_entry`; return the shared library's path.

    With `link` "tsan" the result is a program that runs one launch under ThreadSanitizer.
    CompileError carries clang's message.
    """
    key = hashlib.sha256(repr((source, flags, link, _emulator_digest())).encode()).hexdigest()[:20]
    output = cache_folder() / f"kernel-{key}"
    if output.exists():
        return output
    text = cache_folder() / f"kernel-{key}.cl"
    text.write_text(source, encoding="utf-8")
    if link == "shared":
        machine()
        return _run_clang([*_with_headers(flags), str(text), "-shared", "-lm"], output)
    compiled = output.with_suffix(".o")
    _run_clang([*_with_headers((*flags, *TSAN_FLAGS)), str(text), "-c"], compiled)
    runtime = _uninstrumented_machine()
    return _run_clang([*map(str, (*runtime, compiled)), "-fsanitize=thread", "-lm"], output)


@lru_cache
def _with_headers(flags: tuple[str, ...]) -> tuple[str, ...]:
    """Return all flags for a kernel, with `PRELUDE` as clang has read it once for all of them.

    Reading it takes as long as compiling a kernel.
    """
    includes = (f"-I{folder}" for folder in include_folders())
    common = (*KERNEL_FLAGS, *_processor_flags(), *flags, *includes)
    key = hashlib.sha256(repr((PRELUDE, common, _emulator_digest())).encode()).hexdigest()[:20]
    output = cache_folder() / f"prelude-{key}.pch"
    if not output.exists():
        text = output.with_suffix(".cl")
        text.write_text(PRELUDE, encoding="utf-8")
        made = ("-Xclang", "-emit-pch", "-Xclang", "-fno-pch-timestamp")
        _run_clang([*common, *made, str(text), "-c"], output)
    return (*common, "-include-pch", str(output))


@lru_cache
def _uninstrumented_machine() -> tuple[Path, ...]:
    """Compile the machine for programs that ThreadSanitizer watches, itself unwatched."""
    objects = []
    for name in ("scheduler", "buffers", "main"):
        output = cache_folder() / f"{name}-{_emulator_digest()[:16]}.o"
        if not output.exists():
            source = str(_HERE / "runtime" / f"{name}.cpp")
            _run_clang([*_MACHINE_FLAGS, "-DEMU_TSAN", "-c", source], output)
        objects.append(output)
    return tuple(objects)
