"""A checkpoint as a model whose stored arrays can be moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from bitbudget.workers.recovery.patch import patch
from bitbudget.workers.recovery.student import Student
from bitbudget.workers.running.float32 import load_float32
from tests.workers.recovery.checkpoints import quantized, tiny
from tests.workers.rotate.test_fused import quantized_fused

DOWN = "model.layers.0.mlp.down_proj"


def stored_arrays(folder: Path) -> dict[str, np.ndarray]:
    arrays = mx.load(str(folder / "model.safetensors"))
    assert isinstance(arrays, dict)
    return {
        name: np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)
        for name, array in arrays.items()
    }


def keep(path: str, _module: nn.Module) -> bool:
    return "q_proj" not in path


def floats(path: str, _module: nn.Module) -> Any:
    return {"group_size": 32, "bits": 4, "mode": "mxfp4"} if "mlp" in path else True


@pytest.mark.parametrize(
    ("model_type", "dtype", "predicate"),
    [
        ("llama", mx.bfloat16, None),
        ("llama", mx.float16, keep),
        ("llama", mx.float32, floats),
        ("qwen2_moe", mx.bfloat16, None),
        ("qwen2", mx.bfloat16, None),
    ],
)
def test_values_that_changed_nothing_are_the_stored_arrays(
    tmp_path: Path, model_type: str, dtype: mx.Dtype, predicate: Callable[..., Any] | None
) -> None:
    original = tiny(tmp_path / "original", dtype, model_type)
    folder = quantized(original, tmp_path / "quantized", predicate)
    student = Student(folder, load_float32(original))
    arrays, stored = student.arrays(student.values()), stored_arrays(folder)
    assert arrays.keys() <= stored.keys()
    assert {name for name in stored if name.endswith("norm.weight")} <= arrays.keys()
    fixed = {name for name in stored if predicate is floats and ".mlp." in name}
    quantized_paths = {name.removesuffix(".scales") for name in stored if name.endswith(".scales")}
    codes = {f"{path}.weight" for path in quantized_paths}
    assert stored.keys() - arrays.keys() == fixed | codes
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, stored[name], err_msg=name)


def test_a_rotated_checkpoint_is_moved_towards_its_rotated_original(tmp_path: Path) -> None:
    folder = quantized_fused(tmp_path, "llama")
    student = Student(folder, load_float32(tmp_path / "rotated"))
    before = student.apply(student.values())(mx.arange(9)[None])
    assert mx.allclose(before, load_float32(folder)(mx.arange(9)[None]), atol=1e-5)
    name = "model.layers.0.input_layernorm.weight"
    values = student.values()
    values["w"][name] = values["w"][name] + 1
    patch(folder, student.arrays(values), b"{}")
    again = load_float32(folder)(mx.arange(9)[None])
    assert mx.allclose(again, student.apply(values, stored=True)(mx.arange(9)[None]), atol=1e-5)
    assert not mx.allclose(again, before, atol=1e-3)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return tiny(tmp_path / "original")


@pytest.fixture
def rough(original: Path, tmp_path: Path) -> Path:
    return quantized(original, tmp_path / "rough")


def test_what_is_stored_is_what_was_judged(original: Path, rough: Path) -> None:
    student = Student(rough, load_float32(original))
    key = mx.random.key(3)
    values = {
        kind: {name: 0.5 * mx.random.normal(array.shape, key=key) for name, array in part.items()}
        for kind, part in student.values().items()
    }
    ids = mx.arange(9)[None]
    judged = student.apply(values, stored=True)(ids)
    before = load_float32(rough)(ids)
    patch(rough, student.arrays(values), b"{}")
    assert mx.allclose(load_float32(rough)(ids), judged, atol=1e-4)
    assert not mx.allclose(before, judged, atol=1e-2)


@pytest.mark.parametrize(("kind", "expected"), [("u", 1.0), ("v", 1.0)])
def test_the_unit_of_grids_is_one_step(
    original: Path, rough: Path, kind: str, expected: float
) -> None:
    student = Student(rough, load_float32(original))
    values = student.values()
    module: Any = student.modules[DOWN]
    own = student.stored[DOWN]
    student.apply(values)
    before = module.weight
    values[kind][DOWN] = mx.ones(own.scales.shape)
    student.apply(values)
    moved = mx.unflatten(module.weight - before, -1, (-1, 32)) / own.scales[..., None]
    assert mx.allclose(mx.sqrt((moved**2).mean(-1)), mx.array(expected), atol=1e-3)
