"""Indexes, buffers, element types and claims of quantization, beside weights that are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from bitbudget.app.core.errors import AlreadyQuantizedError, InvalidModelError
from bitbudget.workers.files.folder import INDEX_NAME
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.arrays import numpy_of
from tests.workers.models.tiny import stored_weights, write_tiny

TYPES = ["llama", "qwen3_moe", "gpt2"]


def save(folder: Path, weights: dict[str, mx.array], name: str = "model.safetensors") -> None:
    mx.save_safetensors(str(folder / name), weights)


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize(
    "names",
    [
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ["mtp.safetensors"],
        ["consolidated.safetensors"],
    ],
)
def test_a_stale_index_is_no_fault(model_type: str, names: list[str], tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m", model_type)
    whole = build_inventory(open_checkpoint(folder))
    index = {"weight_map": dict.fromkeys(stored_weights(folder), names[0]) | {"x": names[-1]}}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    assert build_inventory(open_checkpoint(folder)) == whole


@pytest.mark.parametrize("model_type", TYPES)
def test_two_files_called_of_four_are_enough(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m", model_type)
    whole = build_inventory(open_checkpoint(folder))
    weights = stored_weights(folder)
    (folder / "model.safetensors").unlink()
    for number in (1, 2):
        part = {k: v for i, (k, v) in enumerate(sorted(weights.items())) if i % 2 == number - 1}
        save(folder, part, f"model-0000{number}-of-00004.safetensors")
    assert build_inventory(open_checkpoint(folder)) == whole
    (folder / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(InvalidModelError, match=r"model-00002-of-00004.*missing shard"):
        build_inventory(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("model_type", "buffer"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("qwen3_moe", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "model.h.0.attn.masked_bias"),
        ("gpt2", "model.h.1.attn.bias"),
    ],
)
def test_buffers_that_are_computed_anew_are_left_out(
    model_type: str, buffer: str, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "m", model_type)
    whole = build_inventory(open_checkpoint(folder))
    save(folder, stored_weights(folder) | {buffer: mx.zeros((1, 1, 4, 4))})
    assert build_inventory(open_checkpoint(folder)) == whole


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_float32_weights_become_what_the_configuration_says(
    model_type: str, key: str, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "m", model_type, **{key: "bfloat16"})
    half = build_inventory(open_checkpoint(folder))
    stored = stored_weights(folder)
    save(folder, {name: array.astype(mx.float32) for name, array in stored.items()})
    checkpoint = open_checkpoint(folder)
    assert build_inventory(checkpoint) == half
    for module in half.modules:
        parts = [part.reshape(-1) for part in checkpoint.parts(module.path)]
        expected = numpy_of(stored[f"{module.path}.weight"]).reshape(-1)
        assert np.array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "granite"])
def test_a_mixed_model_keeps_its_types(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m", model_type, torch_dtype="bfloat16")
    mixed = {
        name: array.astype(mx.float32) if "norm" in name else array
        for name, array in stored_weights(folder).items()
    }
    save(folder, mixed)
    kept = {
        array.name: array.dtype for array in build_inventory(open_checkpoint(folder)).passthrough
    }
    assert {dtype.value for name, dtype in kept.items() if "norm" in name} == {"F32"}


@pytest.mark.parametrize("stated", [None, "bfloat16"])
@pytest.mark.parametrize("model_type", TYPES)
def test_float64_is_cast(model_type: str, stated: str | None, tmp_path: Path) -> None:
    changes: dict[str, Any] = {} if stated is None else {"torch_dtype": stated}
    folder = write_tiny(tmp_path / "m", model_type, **changes)
    stored = stored_weights(folder)
    wide = {name: np.array(array.astype(mx.float32), np.float64) for name, array in stored.items()}
    save_file(wide, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    assert {module.dtype.value for module in inventory.modules} == {"BF16" if stated else "F32"}
    assert any("float64" in note for note in checkpoint.notes)
    module = inventory.modules[-1]
    found = next(iter(checkpoint.parts(module.path)))
    truth = stored[f"{module.path}.weight"].astype(mx.bfloat16 if stated else mx.float32)
    assert np.array_equal(found.reshape(-1), numpy_of(truth).reshape(-1)[: found.size])


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["q_proj.qweight", "q_proj.scales"], "packed by GPTQ"),
        (["q_proj.qweight", "q_proj.qzeros"], "packed by AWQ"),
        (["q_proj.weight_packed"], "packed by compressed-tensors"),
        (["q_proj.weight.absmax"], "packed by bitsandbytes"),
        (["q_proj.SCB"], "packed by bitsandbytes"),
        (["experts.down_proj_blocks"], "packed as MXFP4 blocks"),
        (["q_proj.scales", "q_proj.weight"], "packed by MLX"),
    ],
)
@pytest.mark.parametrize("model_type", TYPES)
def test_packed_weights_are_named(
    model_type: str, names: list[str], layout: str, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "m", model_type)
    extra = {f"model.layers.0.self_attn.{name}": mx.zeros((8, 8), mx.uint32) for name in names}
    save(folder, stored_weights(folder) | extra)
    with pytest.raises(AlreadyQuantizedError, match=layout):
        open_checkpoint(folder)
