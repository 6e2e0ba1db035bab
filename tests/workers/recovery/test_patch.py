"""Replacing arrays in a checkpoint's files, killed anywhere."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.workers.recovery.patch import RECORD, finish, patch


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    for index in range(2):
        arrays = {f"a{index}": mx.zeros((3,)), f"b{index}": mx.ones((2,))}
        mx.save_safetensors(str(tmp_path / f"model-{index}.safetensors"), arrays)
    return tmp_path


NEW = {"a0": np.full(3, 7, np.float32), "a1": np.full(3, 8, np.float32)}


def contents(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        arrays = mx.load(str(file))
        assert isinstance(arrays, dict)
        found |= {name: np.array(array).tolist() for name, array in arrays.items()}
    return found


def test_only_the_arrays_named_change(checkpoint: Path) -> None:
    sizes = {file: file.stat().st_size for file in checkpoint.glob("*.safetensors")}
    patch(checkpoint, NEW, b"{}")
    expected = {"a0": [7.0] * 3, "a1": [8.0] * 3, "b0": [1.0] * 2, "b1": [1.0] * 2}
    assert contents(checkpoint) == expected
    assert {file: file.stat().st_size for file in sizes} == sizes
    assert sorted(p.name for p in checkpoint.iterdir()) == [*sorted(p.name for p in sizes), RECORD]


def test_another_size_is_refused_and_nothing_changes(checkpoint: Path) -> None:
    before = contents(checkpoint)
    with pytest.raises(ValueError, match="a1: 8 bytes, 12 in the file"):
        patch(checkpoint, {"a0": NEW["a0"], "a1": np.zeros(2, np.float32)}, b"{}")
    finish(checkpoint)
    assert contents(checkpoint) == before
    assert len(list(checkpoint.iterdir())) == 2


def test_what_a_killed_run_had_written_in_part_is_removed(checkpoint: Path) -> None:
    before = contents(checkpoint)
    (checkpoint / "model-0.safetensors.recovered").write_bytes(b"half")
    (checkpoint / f"{RECORD}.part").write_bytes(b"{")
    finish(checkpoint)
    assert contents(checkpoint) == before
    assert len(list(checkpoint.iterdir())) == 2


def test_what_a_killed_run_had_written_whole_is_put_in_place(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("patched")
    for file in checkpoint.glob("*.safetensors"):
        (other / file.name).write_bytes(file.read_bytes())
    patch(other, NEW, b"{}")
    (other / "model-0.safetensors").replace(checkpoint / "model-0.safetensors")
    draft = checkpoint / "model-1.safetensors.recovered"
    (other / "model-1.safetensors").replace(draft)
    (checkpoint / RECORD).write_bytes(b"{}")
    finish(checkpoint)
    assert contents(checkpoint) == {
        "a0": [7.0] * 3,
        "a1": [8.0] * 3,
        "b0": [1.0] * 2,
        "b1": [1.0] * 2,
    }
    assert not draft.exists()
