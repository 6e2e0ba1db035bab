"""Data races of a kernel, found by ThreadSanitizer with every Metal thread a fiber it knows."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from bitbudget.metal_kernels.launch import Launch
from tests.metal_emulator.emulate import argument_bytes, kernel_source
from tests.metal_emulator.signature import generate
from tests.metal_emulator.toolchain import compile_kernel

__all__ = ["racing_lines"]

_OPTIONS = "exitcode=0:report_signal_unsafe=0:history_size=7"
_SYMBOLIZERS = ("llvm-symbolizer-19", "llvm-symbolizer", "addr2line")


def _options() -> str:
    """Return ThreadSanitizer's options, with a program of this machine that finds lines."""
    found = next(filter(None, map(shutil.which, _SYMBOLIZERS)), None)
    named = f":external_symbolizer_path={found}:allow_addr2line=1" if found else ""
    return _OPTIONS + named


def racing_lines(launch: Launch) -> set[int]:
    """Return the lines of the generated source between which `launch` has data races."""
    signature = generate(launch)
    program = compile_kernel(kernel_source(signature), link="tsan")
    contents = [argument_bytes(launch, argument) for argument in signature.buffers]
    numbers = [*launch.grid, *launch.threadgroup, len(contents)]
    record = struct.pack(f"<{len(numbers)}Q", *numbers)
    for data in contents:
        record += struct.pack("<Q", len(data)) + data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "launch"
        path.write_bytes(record)
        done = subprocess.run(
            [str(program), str(path)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"TSAN_OPTIONS": _options(), "LD_PRELOAD": ""},
        )
    if done.stdout.strip() != "ran":
        raise RuntimeError(f"the race detector did not run: {done.stdout}{done.stderr[-2000:]}")
    reports = done.stderr.split("WARNING: ThreadSanitizer:")[1:]
    races = [report for report in reports if "data race" in report]
    found = re.findall(r"kernel\.metal:(\d+)", "".join(races))
    if races and not found:
        raise RuntimeError(f"data races without lines: is one of {_SYMBOLIZERS} installed?")
    return {int(line) for line in found}
