"""The same bytes from AVX2, AVX-512 and arm64 (in an emulator), from one source."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitbudget.workers.native import build

EMULATOR = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
FLAGS = (*build._LANGUAGE, *build._ARITHMETIC, "-static", "-nostdlib")
PROCESSORS = {
    "x86_64": ("x86_64-linux-none", ("x86_64_v3", "x86_64_v4")),
    "aarch64": ("aarch64-linux-none", ("generic", "apple_m1")),
}


def compiled(folder: Path, triple: str, processor: str) -> Path:
    program = folder / processor
    source = Path(__file__).with_name("driver.cpp")
    machine = ("-target", triple, f"-mcpu={processor}", f"-I{build.FOLDER}")
    command = [sys.executable, "-m", "ziglang", "c++", *FLAGS, *machine, str(source)]
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"} | caches
    subprocess.run([*command, "-o", str(program)], env=environment, check=True)
    return program


def output_digest(program: Path, emulator: str | None) -> str:
    rng = np.random.default_rng(0)
    values = (0.05 * rng.standard_t(4, size=1 << 16)).astype(np.float32)
    values[4096:4224] = 0
    values[8192:8320] = 0.25
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    command = [str(program)] if emulator is None else [emulator, str(program)]
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    done = subprocess.run(
        command, input=bits.tobytes(), env=environment, stdout=subprocess.PIPE, check=True
    )
    assert len(done.stdout) > 1 << 20
    return hashlib.sha256(done.stdout).hexdigest()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates arm64 on x86-64")
@pytest.mark.skipif(EMULATOR is None, reason="qemu-user-static is not installed")
def test_arm_and_x86_give_the_same_bytes(tmp_path: Path) -> None:
    digests = {}
    flags = Path("/proc/cpuinfo").read_text()
    for machine, (triple, processors) in PROCESSORS.items():
        for processor in processors:
            if processor == "x86_64_v4" and "avx512vl" not in flags:
                continue
            program = compiled(tmp_path, triple, processor)
            emulator = EMULATOR if machine == "aarch64" else None
            digests[processor] = output_digest(program, emulator)
    assert len(set(digests.values())) == 1, digests
