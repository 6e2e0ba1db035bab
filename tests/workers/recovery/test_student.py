"""A checkpoint as a model whose stored arrays can be moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from bitbudget.app.core.requests import Recover
from bitbudget.workers.recovery import recover
from bitbudget.workers.recovery.patch import patch
from bitbudget.workers.recovery.student import Student
from bitbudget.workers.running.float32 import load_float32
from tests.workers.pipeline.test_own_formats import checkpoint
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


def moved(student: Student, kind: str) -> np.ndarray:
    """Return by how much a value of one moves the weights of `DOWN`."""
    values = student.values()
    module: Any = student.open().modules[DOWN]
    student.apply(values)
    before = module.weight
    values[kind][DOWN] = mx.ones(student.stored[DOWN].shape)
    student.apply(values)
    return np.array(module.weight - before)


@pytest.mark.parametrize("kind", ["u", "v"])
def test_the_unit_of_grids_is_one_step(original: Path, rough: Path, kind: str) -> None:
    student = Student(rough, load_float32(original))
    own = student.stored[DOWN]
    scales, _ = own.grid(own.parameters(mx.zeros(own.shape), mx.zeros(own.shape)))
    steps = moved(student, kind).reshape(*scales.shape, 32) / np.array(scales)[..., None]
    assert np.allclose(np.sqrt((steps**2).mean(-1)), 1, atol=1e-3)


@pytest.fixture(params=["two3g16", "two3g32", "zero4g32", "sym8g32"])
def own_format(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint in a format of our own, beside its original in `model`."""
    return checkpoint(tmp_path, "qwen3", (request.param,))[0]


def test_parameters_of_our_own_formats_are_moved_as_they_are_stored(
    own_format: Path, tmp_path: Path
) -> None:
    student = Student(own_format, load_float32(tmp_path / "model"))
    arrays, stored = student.arrays(student.values()), stored_arrays(own_format)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, stored[name], err_msg=name)
    name = "spans" if f"{DOWN}.spans" in stored else "scales"
    assert f"{DOWN}.{name}" in arrays
    values = {
        kind: {path: mx.full(array.shape, 0.5) for path, array in part.items()}
        for kind, part in student.values().items()
    }
    judged = student.apply(values, stored=True)(mx.arange(9)[None])
    patch(own_format, student.arrays(values), b"{}")
    assert mx.allclose(load_float32(own_format)(mx.arange(9)[None]), judged, atol=1e-4)


def test_the_unit_of_our_own_formats_is_one_step(own_format: Path, tmp_path: Path) -> None:
    student = Student(own_format, load_float32(tmp_path / "model"))
    own = student.stored[DOWN]
    scales, _ = own.grid(own.parameters(mx.zeros(own.shape), mx.zeros(own.shape)))
    step = np.sqrt(np.square(np.array(scales)).mean(-1))
    turned, shifted = (np.sqrt((moved(student, kind) ** 2).mean(-1)) / step for kind in ("u", "v"))
    assert np.allclose(turned, 1, atol=1e-3)
    assert np.allclose(shifted, 1 if f"{DOWN}.spans" in stored_arrays(own_format) else 0, atol=1e-3)


def test_a_checkpoint_in_a_format_of_our_own_recovers(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "qwen3", ("two3g32",))[0]
    size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    found = recover(folder, tmp_path / "model", Recover.SCALES, seconds=600, steps=12)
    assert found.changed
    assert found.after < found.before
    assert size == sum(f.stat().st_size for f in folder.glob("*.safetensors"))
