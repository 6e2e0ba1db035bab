"""Rollouts and the original's predictions are made once and found again."""

from __future__ import annotations

import errno
import os
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bitbudget.workers.evaluate import Evaluator, cache
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.evaluate.reference import Reference, job_rollouts
from bitbudget.workers.evaluate.teacher import TeacherBatch
from tests.workers.models.tiny import write_tiny

IDS = np.random.default_rng(0).integers(0, 128, (12, 32), np.int32)


def same(one: list[TeacherBatch], other: list[TeacherBatch]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for a, b in zip(one, other, strict=True)
        for field in fields(TeacherBatch)
    )


@pytest.mark.parametrize("vocabulary", [8192, 100])
def test_what_was_taught_is_read_back_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocabulary: int
) -> None:
    monkeypatch.setattr("bitbudget.workers.evaluate.teacher._FULL_VOCABULARY", vocabulary)
    monkeypatch.setattr("bitbudget.workers.evaluate.teacher.TOP_K", 50)
    monkeypatch.setattr("bitbudget.workers.evaluate.teacher._BATCH_ELEMENTS", 128 * 32 * 3)
    folder = write_tiny(tmp_path / "model", "llama")
    kept = ReferenceCache(tmp_path / "kept")
    made = Reference.on(folder, IDS, cache=kept)
    (folder / "model.safetensors").unlink()
    found = Reference.on(folder, IDS, cache=kept)
    assert [len(batch.ids) for batch in made.probing] == [3, 3, 2]
    assert same(made.everything, found.everything)
    assert (made.probing[0].top is None) == (vocabulary == 8192)


def test_a_killed_run_leaves_nothing_that_counts(tmp_path: Path) -> None:
    kept = ReferenceCache(tmp_path)

    def killed() -> list[TeacherBatch]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.taught(IDS, killed)
    assert not list(tmp_path.iterdir())


def test_the_oldest_predictions_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MOST_BYTES", 20_000)
    kept = ReferenceCache(tmp_path)
    for number in range(4):
        ids = IDS + number
        batch = TeacherBatch(ids, np.zeros((12, 31, 20), np.float32), ids[:, 1:], ids[:, 1:])
        kept.taught(ids, lambda batch=batch: [batch])  # type: ignore[misc]
    assert len(list(tmp_path.iterdir())) == 1
    assert kept.taught(IDS + 3, list)[0].ids[0, 0] == IDS[0, 0] + 3


@pytest.mark.parametrize("times", [1.5, 2.5])
def test_predictions_take_at_most_half_of_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    log_p = np.zeros((12, 31, 2000), np.float32)
    batch = TeacherBatch(IDS, log_p, IDS[:, 1:], IDS[:, 1:])
    free = SimpleNamespace(free=int(times * log_p.nbytes))
    monkeypatch.setattr("bitbudget.workers.evaluate.cache.shutil.disk_usage", lambda _folder: free)
    assert ReferenceCache(tmp_path).taught(IDS, lambda: [batch]) == [batch]
    assert len(list(tmp_path.iterdir())) == (times > 2)


def test_a_full_disk_keeps_no_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_arrays: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    batch = TeacherBatch(IDS, np.zeros((12, 31, 20), np.float32), IDS[:, 1:], IDS[:, 1:])
    monkeypatch.setattr("bitbudget.workers.evaluate.cache.np.savez", full)
    assert ReferenceCache(tmp_path).taught(IDS, lambda: [batch]) == [batch]
    assert not list(tmp_path.iterdir())


def test_a_job_verifies_and_evaluates_on_different_rollouts(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "llama")
    kept = ReferenceCache(tmp_path / "kept")
    verifying, evaluating = job_rollouts(folder, seed=0, cache=kept)
    assert len(verifying) == 32
    evaluation = Evaluator(folder, cache=kept)
    assert np.array_equal(evaluation.windows["rollouts"], evaluating)
    assert not {row.tobytes() for row in verifying} & {row.tobytes() for row in evaluating}
    assert len(list((tmp_path / "kept").iterdir())) == 1
