from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.files.headers import TensorRef
from bitbudget.workers.streaming import (
    MeasuredTensor,
    Measuring,
    Progress,
    TensorTask,
    measure_tensors,
)
from bitbudget.workers.streaming.decode import decode, float8_table
from bitbudget.workers.streaming.digest import digest_of_parts
from bitbudget.workers.streaming.files import ReadError
from bitbudget.workers.sweep import measure_weight
from bitbudget.workers.sweep import plan as plan_module

from .conftest import WriteCheckpoint, legal, random_weight, task_of

CAREFUL = Encoder.CAREFUL


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many segments in small files."""
    monkeypatch.setattr(plan_module, "SEGMENT_WEIGHTS", 1 << 14)


def by_path(results: list[MeasuredTensor]) -> dict[str, MeasuredTensor]:
    return {result.path: result for result in results}


def test_a_streamed_tensor_equals_the_same_in_memory(
    tmp_path: Path, write_checkpoint: WriteCheckpoint
) -> None:
    weights = {f"t{i}": random_weight((96 + i, 256 + 32 * i), seed=i) for i in range(6)}
    tensors = write_checkpoint({k: (Dtype.BF16, w) for k, w in weights.items()}, "a.safetensors")
    tasks = [task_of(tensor.name, tensor) for tensor in tensors]
    results = by_path(list(measure_tensors(tasks, Measuring(tmp_path, CAREFUL))))
    for task in tasks:
        weight = weights[task.path]
        expected = measure_weight([weight], Dtype.BF16, task.formats, CAREFUL)
        assert results[task.path].errors == expected
        assert results[task.path].digest == digest_of_parts([weight])
        assert results[task.path].errors.t2[KEEP] == 0


def test_threads_do_not_change_a_bit(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    tensors = write_checkpoint(
        {f"t{i}": (Dtype.F32, random_weight((300, 512), Dtype.F32, i)) for i in range(4)}, "a"
    )
    tasks = [task_of(tensor.name, tensor, dtype=Dtype.F32) for tensor in tensors]
    runs = [
        by_path(list(measure_tensors(tasks, Measuring(tmp_path, CAREFUL), threads=threads)))
        for threads in (1, 2, 5)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_stacked_experts_stream_in_order(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    experts = [random_weight((48, 128), seed=i) for i in range(8)]
    tensors = write_checkpoint({f"e{i}": (Dtype.BF16, w) for i, w in enumerate(experts)}, "a")
    (result,) = measure_tensors([task_of("experts", *tensors)], Measuring(tmp_path, CAREFUL))
    stacked = np.stack(experts)
    expected = measure_weight([stacked], Dtype.BF16, legal(128, Dtype.BF16), CAREFUL)
    assert result.errors == expected
    assert result.digest == digest_of_parts(experts)


def test_shards_and_mixed_dtypes(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    tasks = []
    for dtype in (Dtype.BF16, Dtype.F16, Dtype.F32):
        weight = random_weight((64, 192), dtype)
        (tensor,) = write_checkpoint({dtype.value: (dtype, weight)}, f"{dtype.value}.safetensors")
        tasks.append(task_of(dtype.value, tensor, dtype=dtype))
    for result in measure_tensors(tasks, Measuring(tmp_path, CAREFUL)):
        dtype = Dtype(result.path)
        expected = measure_weight(
            [random_weight((64, 192), dtype)], dtype, legal(192, dtype), CAREFUL
        )
        assert result.errors == expected


def test_eight_bit_floats_are_decoded(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    codes = np.random.default_rng(0).integers(0, 0x7E, (64, 128), dtype=np.uint8)
    (tensor,) = write_checkpoint({"w": (Dtype.F8_E4M3, codes)}, "a.safetensors")
    (result,) = measure_tensors([task_of("w", tensor)], Measuring(tmp_path, CAREFUL))
    decoded = decode(codes, Dtype.F8_E4M3, Dtype.BF16)
    expected = measure_weight([decoded], Dtype.BF16, legal(128, Dtype.BF16), CAREFUL)
    assert result.errors == expected


def test_eight_bit_tables_are_the_standard_ones() -> None:
    e4m3, e5m2 = float8_table(Dtype.F8_E4M3), float8_table(Dtype.F8_E5M2)
    assert e4m3[0x7E] == 448
    assert e4m3[1] == 2**-9
    assert np.isnan(e4m3[[0x7F, 0xFF]]).all()
    assert e5m2[0x7B] == 57344
    assert e5m2[1] == 2**-16
    assert e5m2[0xFC] == -np.inf
    mx = pytest.importorskip("mlx.core")
    codes = np.arange(256, dtype=np.uint8)
    expected = np.array(mx.from_fp8(mx.array(codes), mx.float32))
    finite = np.isfinite(e4m3)
    assert np.array_equal(e4m3[finite], expected[finite])


def test_what_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="dtype I32 in a module of BF16"):
        decode(np.zeros(4, np.uint8), Dtype.I32, Dtype.BF16)


def test_progress_counts_every_byte(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    tensors = write_checkpoint(
        {f"t{i}": (Dtype.BF16, random_weight((200, 256))) for i in (0, 1)}, "a"
    )
    seen: list[Progress] = []
    tasks = [task_of(tensor.name, tensor) for tensor in tensors]
    list(measure_tensors(tasks, Measuring(tmp_path, CAREFUL), progress=seen.append))
    assert [state.done_bytes for state in seen] == sorted({state.done_bytes for state in seen})
    assert seen[-1].done_bytes == seen[-1].total_bytes == 2 * 200 * 256 * 2
    assert seen[-1].bytes_per_second > 0
    assert seen[-1].remaining_seconds == 0
    assert {state.path for state in seen} == {"t0", "t1"}


def test_a_measured_tensor_is_not_read_again(
    tmp_path: Path, write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tensor,) = write_checkpoint({"w": (Dtype.BF16, random_weight((64, 256)))}, "a")
    tasks, cache = [task_of("w", tensor)], tmp_path / "cache" / "sweep.sqlite3"
    (first,) = measure_tensors(tasks, Measuring(tmp_path, CAREFUL, cache=cache))
    monkeypatch.setattr(os, "preadv", None)
    (second,) = measure_tensors(tasks, Measuring(tmp_path, CAREFUL, cache=cache))
    assert second.from_cache
    assert (second.errors, second.digest) == (first.errors, first.digest)


def test_the_same_bytes_elsewhere_are_only_hashed(
    tmp_path: Path, write_checkpoint: WriteCheckpoint
) -> None:
    weights = {"same": random_weight((200, 256)), "changed": random_weight((200, 256), seed=1)}
    cache = tmp_path / "sweep.sqlite3"
    old = write_checkpoint({k: (Dtype.BF16, w) for k, w in weights.items()}, "old")
    how = Measuring(tmp_path, CAREFUL, cache=cache)
    list(measure_tensors([task_of(t.name, t) for t in old], how))
    weights["changed"][-1, -1] ^= 1  # its first segment is that of the known one
    new = write_checkpoint({k: (Dtype.BF16, w) for k, w in weights.items()}, "new")
    tasks = [task_of(tensor.name, tensor) for tensor in new]
    results = by_path(list(measure_tensors(tasks, how)))
    assert results["same"].from_cache
    assert not results["changed"].from_cache
    expected = measure_weight([weights["changed"]], Dtype.BF16, tasks[0].formats, CAREFUL)
    assert results["changed"].errors == expected


def test_another_encoder_or_format_is_another_result(
    tmp_path: Path, write_checkpoint: WriteCheckpoint
) -> None:
    (tensor,) = write_checkpoint({"w": (Dtype.BF16, random_weight((64, 256)))}, "a")
    cache = tmp_path / "sweep.sqlite3"
    whole = task_of("w", tensor)
    some = TensorTask("w", (tensor,), Dtype.BF16, whole.formats[:3])
    list(measure_tensors([whole], Measuring(tmp_path, CAREFUL, cache=cache)))
    (minmax,) = measure_tensors([whole], Measuring(tmp_path, Encoder.MINMAX, cache=cache))
    (fewer,) = measure_tensors([some], Measuring(tmp_path, CAREFUL, cache=cache))
    assert not minmax.from_cache
    assert not fewer.from_cache
    assert set(fewer.errors.t2) == set(some.formats)


def test_a_truncated_file_is_named(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    (tensor,) = write_checkpoint({"w": (Dtype.BF16, random_weight((200, 256)))}, "cut.safetensors")
    path = tmp_path / "cut.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(InvalidModelError, match=r"cut\.safetensors: w: found the end .* early"):
        list(measure_tensors([task_of("w", tensor)], Measuring(tmp_path, CAREFUL)))


def test_a_file_that_changes_is_noticed(
    tmp_path: Path, write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tensor,) = write_checkpoint({"w": (Dtype.BF16, random_weight((200, 256)))}, "a.safetensors")
    path, read = tmp_path / "a.safetensors", os.preadv

    def touch_and_read(*arguments: object) -> int:
        os.utime(path, ns=(1, 1))
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", touch_and_read)
    with pytest.raises(InvalidModelError, match="changed while it was read"):
        list(measure_tensors([task_of("w", tensor)], Measuring(tmp_path, CAREFUL)))


def test_a_failing_disk_is_an_error_and_finished_work_stays(
    tmp_path: Path, write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = write_checkpoint(
        {f"t{i}": (Dtype.BF16, random_weight((200, 256), seed=i)) for i in range(3)}, "a"
    )
    tasks, cache = [task_of(t.name, t) for t in tensors], tmp_path / "sweep.sqlite3"
    list(measure_tensors(tasks[:1], Measuring(tmp_path, CAREFUL, cache=cache)))

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", fail)
        with pytest.raises(ReadError, match="Input/output error"):
            list(measure_tensors(tasks, Measuring(tmp_path, CAREFUL, cache=cache)))
    results = by_path(list(measure_tensors(tasks, Measuring(tmp_path, CAREFUL, cache=cache))))
    assert results["t0"].from_cache
    assert len(results) == 3


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    tensor = TensorRef("absent.safetensors", "w", Dtype.BF16, (2, 64), 0, 256)
    with pytest.raises(ReadError, match=r"absent\.safetensors"):
        list(measure_tensors([task_of("w", tensor)], Measuring(tmp_path, CAREFUL)))


def test_nan_stops_the_run_and_names_the_module(
    tmp_path: Path, write_checkpoint: WriteCheckpoint
) -> None:
    broken = random_weight((64, 256))
    broken[0, 0] = 0x7FC0
    tensors = write_checkpoint({"w": (Dtype.BF16, broken)}, "a")
    with pytest.raises(InvalidModelError, match=r"model\.layers\.0\.up: found 1 NaN"):
        list(
            measure_tensors([task_of("model.layers.0.up", *tensors)], Measuring(tmp_path, CAREFUL))
        )


def test_zero_size_and_odd_width_tensors(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    tensors = write_checkpoint(
        {
            "empty": (Dtype.BF16, np.empty((0, 64), np.uint16)),
            "odd": (Dtype.BF16, random_weight((5, 43))),
            "vector": (Dtype.BF16, random_weight((7,))),
        },
        "a",
    )
    tasks = [task_of(tensor.name, tensor) for tensor in tensors]
    results = by_path(list(measure_tensors(tasks, Measuring(tmp_path, CAREFUL))))
    assert set(results["empty"].errors.t2.values()) == {0.0}
    assert results["odd"].errors.t2 == {KEEP: 0.0}
    assert results["odd"].errors.features["absmax"] > 0
    assert results["vector"].errors.t2 == {KEEP: 0.0}


def test_stacks_of_different_widths_are_refused(
    tmp_path: Path, write_checkpoint: WriteCheckpoint
) -> None:
    tensors = write_checkpoint(
        {"a": (Dtype.BF16, random_weight((4, 64))), "b": (Dtype.BF16, random_weight((4, 32)))}, "a"
    )
    with pytest.raises(InvalidModelError, match=r"widths \[32, 64\]"):
        list(measure_tensors([task_of("stack", *tensors)], Measuring(tmp_path, CAREFUL)))


MEASURE_SLOWLY = """
import sys, time
from pathlib import Path
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import AFFINE_FORMATS
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.files.headers import read_header
from bitbudget.workers.streaming import Measuring, TensorTask, measure_tensors
folder = Path(sys.argv[1])
tensors = read_header(folder / "a").tensors
tasks = [TensorTask(t.name, (t,), Dtype.BF16, AFFINE_FORMATS) for t in tensors]
how = Measuring(folder, Encoder.MINMAX, cache=folder / "sweep.sqlite3")
for number, result in enumerate(measure_tensors(tasks, how), 1):
    print(result.path, flush=True)
    if number == 5:
        time.sleep(600)
"""


@pytest.mark.chaos
def test_a_killed_run_continues(tmp_path: Path, write_checkpoint: WriteCheckpoint) -> None:
    tensors = write_checkpoint(
        {f"t{i}": (Dtype.BF16, random_weight((64, 256), seed=i)) for i in range(40)}, "a"
    )
    command = [sys.executable, "-c", MEASURE_SLOWLY, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline().strip() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
    cache = tmp_path / "sweep.sqlite3"
    with sqlite3.connect(cache) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    formats = legal(256, Dtype.BF16)[:18]
    tasks = [TensorTask(t.name, (t,), Dtype.BF16, formats) for t in tensors]
    results = by_path(
        list(measure_tensors(tasks, Measuring(tmp_path, Encoder.MINMAX, cache=cache)))
    )
    assert len(results) == 40
    assert all(results[path].from_cache for path in seen)
    assert not all(result.from_cache for result in results.values())
    fresh = by_path(list(measure_tensors(tasks, Measuring(tmp_path, Encoder.MINMAX))))
    assert {p: r.errors for p, r in results.items()} == {p: r.errors for p, r in fresh.items()}
