"""Compile the Metal kernels to PTX: the same sources, for an NVIDIA GPU's assembler to judge.

A warp's 32 lanes stand for a SIMD group. Needs clang 19 (Debian: clang-19); where `ptxas` is on the
path it also reports registers and shared memory. Nothing runs here and nothing is timed: that the
sources compile for a second kind of GPU says they rely on nothing of one compiler, no more.

    python benchmarks/ptx.py [--json FILE] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bitbudget.metal_kernels import KERNELS, Kernel
from tests.metal_emulator.signature import generate
from tests.metal_emulator.source import to_opencl
from tests.metal_emulator.toolchain import compiler, include_folders

ARCHITECTURE = "sm_80"
FLAGS = (
    *("-x", "cl", "-cl-std=clc++1.0", "-cl-no-stdinc", "-cl-single-precision-constant", "-O2"),
    *("-Wno-everything", "-target", "nvptx64-nvidia-cuda", "-Xclang", "-target-cpu"),
    *("-Xclang", ARCHITECTURE, "-Xclang", "-target-feature", "-Xclang", "+ptx71", "-S"),
)
PRELUDE = """#include <metal_stdlib>
using namespace metal;
typedef bfloat bfloat16_t;
typedef half float16_t;
#define REGISTER(name, axis) (uint)__nvvm_read_ptx_sreg_##name##_##axis()
#define VECTOR(name) ((uint3){REGISTER(name, x), REGISTER(name, y), REGISTER(name, z)})
#define INDEX \\
  (REGISTER(tid, x) + REGISTER(ntid, x) * (REGISTER(tid, y) + REGISTER(ntid, y) * REGISTER(tid, z)))
extern "C" float __nv_expf(float x) { return __nvvm_ex2_approx_f(x * 1.442695041f); }
extern "C" float __nv_tanhf(float x) { return 1.0f - 2.0f / (__nv_expf(2.0f * x) + 1.0f); }
"""
ATTRIBUTES = {
    "simdgroup_index_in_threadgroup": "INDEX >> 5",
    "thread_index_in_simdgroup": "INDEX & 31u",
    "thread_index_in_threadgroup": "INDEX",
    "thread_position_in_grid": "VECTOR(ctaid) * VECTOR(ntid) + VECTOR(tid)",
    "threadgroup_position_in_grid": "VECTOR(ctaid)",
    "threads_per_grid": "VECTOR(nctaid) * VECTOR(ntid)",
    "threads_per_threadgroup": "VECTOR(ntid)",
}


def source(kernel: Kernel, case: Any) -> str:
    """Return the OpenCL text of one instantiated kernel with an entry for PTX."""
    signature = generate(kernel.launch(*case.arguments, **case.options))
    arguments = []
    for position, argument in enumerate(signature.buffers):
        pointer = f"({argument.space} {argument.type}*)buffers[{position}]"
        arguments.append("*" * argument.by_reference + pointer)
    arguments += [ATTRIBUTES[name] for name in signature.attributes]
    call = f"{signature.function}({', '.join(arguments)});"
    entry = f'extern "C" __kernel void {kernel.name}(const device ulong* buffers) {{ {call} }}\n'
    return PRELUDE + to_opencl(signature.text) + entry


def assembled(path: Path) -> str:
    """Return what ptxas says of registers and shared memory, or that it is not here."""
    assembler = shutil.which("ptxas")
    if assembler is None:
        return "no ptxas here"
    command = [assembler, f"-arch={ARCHITECTURE}", "-v", str(path), "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    used = re.findall(r"Used \d+ registers.*", done.stderr)
    return used[0] if used else done.stderr.strip()[-200:]


def compile_case(kernel: Kernel, case: Any, folder: Path) -> dict[str, Any]:
    """Compile one case; a row of the table."""
    text = folder / f"{kernel.name}.cl"
    text.write_text(source(kernel, case), encoding="utf-8")
    output = folder / f"{kernel.name}-{re.sub('[^a-z0-9]+', '-', case.name.lower())}.ptx"
    includes = [f"-I{path}" for path in include_folders()]
    command = [str(compiler()), *FLAGS, *includes, str(text), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    row: dict[str, Any] = {"kernel": kernel.name, "case": case.name}
    if done.returncode:
        return row | {"compiled": False, "detail": done.stderr.strip()[:400]}
    ptx = output.read_text(encoding="utf-8")
    return row | {
        "compiled": True,
        "instructions": len(re.findall(r"^\t(?:@!?%p\d+ )?[a-z]\w*[. \t]", ptx, re.MULTILINE)),
        "shuffles": ptx.count("shfl.sync"),
        "barriers": len(re.findall(r"bar(rier)?\.sync", ptx)),
        "detail": assembled(output),
    }


def main() -> int:
    """Compile the first two cases of every kernel, print a table; 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help="keep the PTX files here")
    options = parser.parse_args()
    if compiler() is None:
        print("clang++-19 is not installed: nothing was compiled")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [compile_case(k, case, folder) for k in KERNELS for case in k.cases()[:2]]
    print(f"{'kernel':24}{'case':46}{'instructions':>13}{'shuffles':>9}{'barriers':>9}  ptxas")
    for row in rows:
        counts = "".join(f"{row.get(key, '-'):>{width}}" for key, width in COLUMNS)
        print(f"{row['kernel']:24}{row['case']:46}{counts}  {row['detail']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(not all(row["compiled"] for row in rows))


COLUMNS = (("instructions", 13), ("shuffles", 9), ("barriers", 9))

if __name__ == "__main__":
    sys.exit(main())
