from __future__ import annotations

import hashlib
import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.streaming import Measuring, measure_tensors
from bitbudget.workers.streaming.files import Buffer, SourceFiles
from bitbudget.workers.streaming.tensors import Span
from bitbudget.workers.streaming.whole import WholeFile
from bitbudget.workers.sweep import plan as plan_module

from .conftest import WriteCheckpoint, random_weight, task_of

CONTENT = np.random.default_rng(0).integers(0, 256, 100_003, dtype=np.uint8)


@pytest.mark.parametrize("is_warm", [True, False])
def test_any_span_is_read_as_it_lies(tmp_path: Path, *, is_warm: bool) -> None:
    path, buffer = tmp_path / "f", Buffer(CONTENT.size)
    path.write_bytes(CONTENT.tobytes())
    rng = np.random.default_rng(0)
    with SourceFiles(tmp_path) as files, path.open("rb") as file:
        os.fsync(file.fileno())
        for _ in range(50):
            if not is_warm and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start, end = sorted(map(int, rng.integers(CONTENT.size + 1, size=2)))
            raw = files.read(Span("f", "w", start, end - start, Dtype.U8), buffer)
            assert np.array_equal(raw, CONTENT[start:end])


@pytest.mark.parametrize("is_warm", [True, False])
def test_a_span_beyond_the_end_is_refused(tmp_path: Path, *, is_warm: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT.tobytes())
    with SourceFiles(tmp_path) as files, path.open("rb") as file:
        if not is_warm and hasattr(os, "posix_fadvise"):
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with pytest.raises(InvalidModelError, match="5 bytes early"):
            files.read(Span("f", "w", CONTENT.size - 10, 15, Dtype.U8), Buffer(15))


@pytest.mark.parametrize("seed", range(5))
def test_a_file_is_hashed_from_pieces_in_any_order(seed: int) -> None:
    pieces = np.array_split(CONTENT, 40)
    released: list[int] = []
    file = WholeFile("f", len(pieces))
    order = np.random.default_rng(seed).permutation(40).tolist()
    found = [file.add(i, pieces[i], partial(released.append, i)) for i in order]
    assert found[:-1] == [None] * 39
    assert found[-1] == hashlib.sha256(CONTENT.tobytes()).hexdigest()
    assert released == list(range(40))


def test_threads_may_add_pieces_at_once() -> None:
    pieces = np.array_split(CONTENT, 400)
    file = WholeFile("f", len(pieces))
    found: list[str | None] = []

    def add(part: range) -> None:
        found.extend(file.add(index, pieces[index], lambda: None) for index in part)

    threads = [threading.Thread(target=add, args=(range(k, 400, 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sha256 for sha256 in found if sha256] == [hashlib.sha256(CONTENT.tobytes()).hexdigest()]


def test_one_pass_measures_and_hashes(
    tmp_path: Path, write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Header, tensors that nobody measures and those measured twice or stacked out of order."""
    monkeypatch.setattr(plan_module, "SEGMENT_WEIGHTS", 1 << 12)
    weights = {f"t{i}": (Dtype.BF16, random_weight((40 + i, 256), seed=i)) for i in range(7)}
    tensors = write_checkpoint(weights, "a.safetensors")
    other = write_checkpoint({"x": (Dtype.F32, random_weight((9, 64), Dtype.F32))}, "b.safetensors")
    tasks = [
        task_of("stack", *(tensors[i] for i in (5, 1, 3))),
        task_of("one", tensors[2]),
        task_of("same", tensors[2]),
        task_of("x", *other, dtype=Dtype.F32),
    ]
    how = Measuring(tmp_path, Encoder.CAREFUL)
    alone = {result.path: result for result in measure_tensors(tasks, how)}
    for threads in (1, 3):
        sha256: dict[str, str] = {}
        found = measure_tensors(
            tasks,
            how,
            threads=threads,
            whole={"a.safetensors", "b.safetensors"},
            hashed=sha256.__setitem__,
        )
        assert {result.path: result for result in found} == alone
        assert sha256 == {
            name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
            for name in ("a.safetensors", "b.safetensors")
        }
