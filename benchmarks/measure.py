"""How fast weights are measured, against the same work done otherwise and against the bare disk.

    python -m benchmarks.measure [--large] [--workers 1,2] [--shape qwen3-8b] [--json FILE]

Everything is timed in one run on synthetic checkpoints with true shapes. `--large` adds how cost
and memory grow up to 16 GB. At the end stands every target and whether it was met.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.checkpoints import SHAPES, write_checkpoint
from benchmarks.measure_errors import measured_errors, replaced
from benchmarks.measure_targets import Row, outcomes
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import AFFINE_FORMATS, ALL_FORMATS, FLOAT_FORMATS, Format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.cluster.tensors import measure_on_processes
from bitbudget.workers.encoders.registry import encode
from bitbudget.workers.files.headers import TensorRef, read_header
from bitbudget.workers.native import loader
from bitbudget.workers.native.arrays import Array, to_float32
from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.streaming import Measuring, TensorTask, measure_tensors
from bitbudget.workers.sweep import kernel, measure_weight
from bitbudget.workers.sweep.plan import plan_sweep
from bitbudget.workers.sweep.reference import affine_error

GB: Final = 1e9
REPEATS: Final = 5
READ_BYTES: Final = 8 << 20


def timed(what: str, nbytes: int, work: Callable[[], Any], repeats: int = REPEATS) -> Row:
    """Run `work` and return the medians."""
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        processors.append(time.process_time() - processor)
        walls.append(time.perf_counter() - wall)
    scale = GB / nbytes
    return Row(
        what, nbytes / GB, statistics.median(walls) * scale, statistics.median(processors) * scale
    )


def in_memory(weight: Array) -> Iterator[Row]:
    """Time the kernels on one core and their peers on a part of the same weight."""
    for variant in loader.supported_variants():
        chosen = loader.kernels(variant)
        with replaced(kernel, "kernels", lambda chosen=chosen: chosen):
            plan = plan_sweep(
                Dtype.BF16, weight.shape[1], weight.size, AFFINE_FORMATS, encoder=Encoder.MINMAX
            )
            flat, label = weight.reshape(-1), f"sweep, 18 affine formats, {variant}"
            yield timed(label, weight.nbytes, partial(kernel.sweep_segment, flat, plan))
    for encoder in (Encoder.MINMAX, Encoder.CAREFUL):
        for formats, name in ((AFFINE_FORMATS, "affine"), (FLOAT_FORMATS, "float")):
            yield timed(
                f"measure_weight, {len(formats)} {name} formats, {encoder.value}",
                weight.nbytes,
                partial(measure_weight, [weight], Dtype.BF16, formats, encoder),
            )
    for format_ in (*AFFINE_FORMATS[1::3], *FLOAT_FORMATS[:1]):
        yield timed(
            f"careful encoding and packing, {format_}",
            weight.nbytes,
            partial(encode, weight, Dtype.BF16, format_, Encoder.CAREFUL),
        )


def peers(weight: Array) -> Iterator[Row]:
    """Time the same errors by NumPy, by MLX's ops and by torch if it is installed."""
    few = weight[: max(1, (1 << 23) // weight.shape[1])]

    def numpy_loop() -> None:
        for format_ in AFFINE_FORMATS:
            affine_error(few, Dtype.BF16, format_)

    yield timed("NumPy loop, 18 affine formats", few.nbytes, numpy_loop, 1)
    if importlib.util.find_spec("mlx") is not None:
        for formats, name in ((AFFINE_FORMATS, "affine"), (FLOAT_FORMATS, "float")):
            work = mlx_loop(few, formats)
            yield timed(f"MLX ops loop, {len(formats)} {name} formats", few.nbytes, work)
    if importlib.util.find_spec("torch") is not None:
        yield timed("torch loop, 18 affine formats", few.nbytes, torch_loop(few), 1)


def mlx_loop(weight: Array, formats: tuple[Format, ...]) -> Callable[[], None]:
    """Return the loop that a user of MLX would write."""
    mx: Any = importlib.import_module("mlx.core")
    mx.set_default_device(mx.cpu)
    matrix = mx.array(weight).view(mx.bfloat16)
    exact = matrix.astype(mx.float32)

    def work() -> None:
        for f in formats:
            how = {"group_size": f.group_size, "bits": f.bits, "mode": f.mode.value}
            arrays = mx.quantize(matrix, **how)
            restored = mx.dequantize(*arrays, **how).astype(mx.float32)
            mx.eval(mx.sum(mx.square(restored - exact)))

    return work


def torch_loop(weight: Array) -> Callable[[], None]:
    """Return the same affine errors in torch."""
    torch: Any = importlib.import_module("torch")
    exact = torch.from_numpy(to_float32(weight, Dtype.BF16))

    def work() -> None:
        for f in AFFINE_FORMATS:
            groups = exact.reshape(-1, f.group_size)
            low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
            steps = float((1 << f.bits) - 1)
            scale = ((high - low) / steps).clamp(min=1e-7)
            codes = ((groups - low) / scale).round().clamp(0, steps)
            ((codes * scale.bfloat16().float() + low - groups) ** 2).sum().item()

    return work


def read_whole(path: Path) -> None:
    """Read a file and do nothing with it."""
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def make_cold(path: Path) -> None:
    """Drop the file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def tasks_of(path: Path) -> list[TensorTask]:
    """Return what measuring reads of a file: every matrix, the experts of a layer as one stack."""
    stacks: dict[str, list[TensorRef]] = {}
    for tensor in read_header(path).tensors:
        if len(tensor.shape) > 1:
            stacks.setdefault(re.sub(r"experts\.\d+", "experts", tensor.name), []).append(tensor)
    tasks = []
    for name, tensors in stacks.items():
        first = tensors[0]
        legal = tuple(f for f in ALL_FORMATS if f.is_legal(first.shape[-1], first.dtype))
        tasks.append(TensorTask(name, tuple(tensors), first.dtype, legal))
    return tasks


def streamed(path: Path, encoder: Encoder) -> int:
    """Measure every matrix of a file; return the bytes that were read."""
    tasks = tasks_of(path)
    for _ in measure_tensors(tasks, Measuring(path.parent, encoder)):
        pass
    return sum(task.nbytes for task in tasks)


def spread(path: Path, label: str, counts: list[int]) -> Iterator[Row]:
    """Time the fan-out over processes of this machine."""
    tasks = tasks_of(path)
    nbytes = sum(task.nbytes for task in tasks)
    for count in counts:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        how = Measuring(path.parent, Encoder.MINMAX)
        for _ in measure_on_processes(tasks, how, processes=count):
            pass
        wall = time.perf_counter() - started
        seconds = cpu_seconds_since(before)
        name = f"fan-out, {count} worker processes, {label}"
        yield Row(name, nbytes / GB, wall * GB / nbytes, seconds * GB / nbytes)


def cpu_seconds_since(before: resource.struct_rusage) -> float:
    """Return the CPU time of finished children since `before`."""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def from_disk(path: Path, label: str) -> Iterator[Row]:
    """Time reading and measuring one file, warm and cold."""
    nbytes = path.stat().st_size
    read_whole(path)
    yield timed(f"read only, warm, {label}", nbytes, partial(read_whole, path), 3)
    for encoder in (Encoder.MINMAX, Encoder.CAREFUL):
        name = f"file to curves, warm, {encoder.value}, {label}"
        yield timed(name, nbytes, partial(streamed, path, encoder), 3)

    def cold(work: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            make_cold(path)
            work()

        return run

    yield timed(f"read only, cold, {label}", nbytes, cold(partial(read_whole, path)), 3)
    for encoder in (Encoder.MINMAX, Encoder.CAREFUL):
        name = f"file to curves, cold, {encoder.value}, {label}"
        yield timed(name, nbytes, cold(partial(streamed, path, encoder)), 3)


def whole_command(path: Path, label: str) -> Row:
    """Time `bitbudget measure --sensitivity weights`, process start included."""
    code = "from bitbudget.app.cli.main import main; main()"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as home:
        arguments = ["-c", code, "measure", str(path.parent), "--sensitivity", "weights", "--json"]
        started = time.perf_counter()
        environment = {**os.environ, "BITBUDGET_HOME": home}
        command = [sys.executable, *arguments]
        subprocess.run(command, env=environment, capture_output=True, check=True)
        wall = time.perf_counter() - started
    seconds = cpu_seconds_since(before)
    gigabytes = path.stat().st_size / GB
    what = f"bitbudget measure --sensitivity weights, {label}"
    return Row(what, gigabytes, wall / gigabytes, seconds / gigabytes)


MEMORY = """
import sys
from pathlib import Path
from bitbudget.app.core.measurement import Encoder
from benchmarks.measure import peak_rss_bytes, streamed
streamed(Path(sys.argv[1]), Encoder.CAREFUL)
print(peak_rss_bytes())
"""


def peak_rss_bytes() -> int:
    """Return this process's own peak: Linux's getrusage counts what its parent had before exec."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (entry for entry in status.read_text().splitlines() if entry.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def peak_memory(path: Path, label: str) -> Row:
    """Measure a file in a fresh process and return its peak RSS."""
    started = time.perf_counter()
    command = [sys.executable, "-c", MEMORY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    nbytes = path.stat().st_size
    wall = (time.perf_counter() - started) * GB / nbytes
    rss = int(done.stdout) / (1 << 20)
    return Row(f"peak memory, {label}", nbytes / GB, wall, 0.0, rss)


def show(row: Row) -> Row:
    """Print a row as it is known."""
    rate = 1 / row.wall_seconds_per_gb if row.wall_seconds_per_gb else 0.0
    memory = f"{row.peak_rss_mib:8.0f} MiB" if row.peak_rss_mib else ""
    print(
        f"{row.what:66s} {row.gigabytes:7.3f} GB {rate:8.3f} GB/s"
        f" {row.cpu_seconds_per_gb:9.3f} CPU-s/GB {memory}",
        flush=True,
    )
    return row


def arguments_of() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), action="append")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="most of each shape")
    parser.add_argument("--large", action="store_true", help="growth up to 16 GB")
    parser.add_argument("--workers", default="", help="fan-out over so many processes: 1,2")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def run(options: argparse.Namespace, folder: Path) -> tuple[list[Row], dict[str, float]]:
    """Return every row, shown as it is known, and the errors of what was measured."""
    rows: list[Row] = []
    errors: dict[str, float] = {}
    for name in options.shape or ["qwen3-0.6b", "qwen3-8b", "qwen3-30b-a3b"]:
        path = write_checkpoint(folder / name, SHAPES[name], int(options.gigabytes * GB))
        if not rows:
            weight = np.fromfile(path, np.uint16, 1 << 24, offset=path.stat().st_size - (1 << 26))
            rows.extend(map(show, in_memory(weight.reshape(-1, 1024))))
            rows.extend(map(show, peers(weight.reshape(-1, 1024))))
            errors = measured_errors(weight.reshape(-1, 1024))
            counts = [int(count) for count in options.workers.split(",") if count]
            rows.extend(map(show, spread(path, name, counts)))
        rows.extend(map(show, from_disk(path, name)))
        rows.append(show(peak_memory(path, name)))
        if name == "qwen3-0.6b":
            rows.append(show(whole_command(path, name)))
        shutil.rmtree(path.parent)
    for gigabytes in (0.5, 1, 2, 4, 8, 16) if options.large else ():
        path = write_checkpoint(folder / "large", SHAPES["qwen3-8b"], int(gigabytes * GB))
        rows.append(show(peak_memory(path, f"qwen3-8b, {gigabytes} GB")))
        shutil.rmtree(path.parent)
    return rows, errors


def main() -> None:
    """Measure, print a table and whether the targets are met, and write JSON."""
    options = arguments_of()
    print(f"{platform.machine()}, {default_threads()} processors, {platform.platform()}")
    with tempfile.TemporaryDirectory(prefix="bitbudget-benchmark-") as folder:
        rows, errors = run(options, Path(folder))
    found = list(outcomes({row.what: row for row in rows}, errors))
    print("\n".join(outcome.line() for outcome in found))
    if options.json:
        document = {
            "rows": [asdict(row) for row in rows],
            "targets": [asdict(outcome) | {"met": outcome.is_met} for outcome in found],
        }
        options.json.write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
