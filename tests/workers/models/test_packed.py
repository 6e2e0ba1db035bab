"""What was quantized before, taken on demand as the dense weights that its codes stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.errors import AlreadyQuantizedError
from bitbudget.app.core.measurement import Measurement
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.arrays import numpy_of
from bitbudget.workers.models.inventory import flat
from bitbudget.workers.pipeline.tasks import run_task
from bitbudget.workers.running.float32 import load_float32
from tests.workers.models import packing
from tests.workers.models.tiny import stored_weights, write_tiny

WIDTHS = {bits: {"config_groups": {"group_0": {"weights": {"num_bits": bits}}}} for bits in (3, 4)}
TYPES = ["llama", "qwen3", "gemma2"]


def packed(folder: Path, model_type: str, bits: int, group_size: int, mode: str) -> Path:
    """Write a model whose projections MLX quantized, as `mlx_lm.convert` leaves it."""
    write_tiny(folder, model_type)
    weights: dict[str, mx.array] = {}
    for name, array in stored_weights(folder).items():
        if not name.endswith("_proj.weight"):
            weights[name] = array
            continue
        codes, scales, *biases = mx.quantize(array, group_size=group_size, bits=bits, mode=mode)
        stem = name.removesuffix(".weight")
        weights |= {name: codes, f"{stem}.scales": scales}
        weights |= {f"{stem}.biases": bias for bias in biases}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"group_size": group_size, "bits": bits, "mode": mode}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("bits", "group_size", "mode"),
    [(4, 64, "affine"), (3, 32, "affine"), (4, 32, "mxfp4"), (4, 16, "nvfp4"), (8, 32, "mxfp8")],
)
@pytest.mark.parametrize("model_type", TYPES)
def test_its_weights_are_those_of_the_codes(
    model_type: str, bits: int, group_size: int, mode: str, tmp_path: Path
) -> None:
    folder = packed(tmp_path / "model", model_type, bits, group_size, mode)
    with pytest.raises(AlreadyQuantizedError, match="packed by MLX"):
        open_checkpoint(folder)
    checkpoint = open_checkpoint(folder, allow_quantized_source=True)
    inventory = build_inventory(checkpoint)
    dense = build_inventory(open_checkpoint(write_tiny(tmp_path / "dense", model_type)))
    assert inventory == dense
    assert "packed by MLX" in checkpoint.notes[0]
    assert "quantization" not in checkpoint.config
    stored = stored_weights(folder)
    name = "model.layers.0.mlp.up_proj"
    expected = mx.dequantize(
        stored[f"{name}.weight"],
        stored[f"{name}.scales"],
        stored.get(f"{name}.biases"),
        group_size=group_size,
        bits=bits,
        mode=mode,
    ).astype(mx.bfloat16)
    (found,) = checkpoint.parts(name)
    assert found.tobytes() == numpy_of(expected).tobytes()
    tokens = mx.arange(9)[None]
    model = checkpoint.model()
    model.set_dtype(mx.float32)
    assert mx.allclose(model(tokens), load_float32(folder)(tokens), rtol=0.05, atol=0.05)


OTHERS: dict[str, tuple[Callable[[packing.Array], packing.Packed], dict[str, Any], str]] = {
    "gptq-4": (packing.gptq(4), {"quant_method": "gptq", "bits": 4}, "packed by GPTQ"),
    "gptq-3": (packing.gptq(3), {"quant_method": "gptq", "bits": 3}, "packed by GPTQ"),
    "gptq-8-spread": (packing.gptq(8, ordered=False), {"bits": 8}, "packed by GPTQ"),
    "awq": (packing.awq, {"quant_method": "awq", "bits": 4}, "packed by AWQ"),
    "pack-4": (packing.compressed(4, symmetric=True), WIDTHS[4], "packed by compressed-tensors"),
    "pack-3": (packing.compressed(3, symmetric=False), WIDTHS[3], "packed by compressed-tensors"),
    "int8": (packing.int8, {}, "packed as 8-bit numbers with scales"),
    "nvfp4": (
        packing.nvfp4(".weight_global_scale", divides=True),
        WIDTHS[4],
        "packed by compressed-tensors",
    ),
    "modelopt": (packing.nvfp4(".weight_scale_2", divides=False), {}, "packed by ModelOpt"),
}


@pytest.mark.parametrize("how", OTHERS)
@pytest.mark.parametrize("model_type", TYPES)
def test_what_others_packed_is_decoded(model_type: str, how: str, tmp_path: Path) -> None:
    pack, quantization, found = OTHERS[how]
    folder = write_tiny(tmp_path / "m", model_type)
    dense = build_inventory(open_checkpoint(folder))
    expected = repack(folder, pack, quantization)
    with pytest.raises(AlreadyQuantizedError, match=f"{found}.*--allow-quantized-source"):
        open_checkpoint(folder)
    checkpoint = open_checkpoint(folder, allow_quantized_source=True)
    assert found in checkpoint.notes[0]
    assert [m.shape for m in build_inventory(checkpoint).modules] == [
        m.shape for m in dense.modules
    ]
    weights = checkpoint.weights()
    reference = dict(flat(load_float32(folder).parameters()))
    for name, values in expected.items():
        for array in (weights[name], reference[name]):
            gap = np.abs(np.array(array.astype(mx.float32)) - values).max()
            assert gap < 0.008 * np.abs(values).max(), name


def repack(
    folder: Path, pack: Callable[[packing.Array], packing.Packed], quantization: dict[str, Any]
) -> dict[str, packing.Array]:
    """Pack the projections of a model, and return the values that their codes stand for."""
    arrays: dict[str, packing.Array] = {}
    dense: dict[str, packing.Array] = {}
    kept: dict[str, mx.array] = {}
    for name, array in stored_weights(folder).items():
        if not name.endswith("_proj.weight"):
            kept[name] = array
            continue
        stem = name.removesuffix(".weight")
        found, dense[name] = pack(np.array(array.astype(mx.float32)))
        arrays |= {stem + ending: values for ending, values in found.items()}
    packed = {name: mx.array(values) for name, values in arrays.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), kept | packed)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": quantization, "torch_dtype": "bfloat16"})
    )
    return dense


def measured(folder: Path, home: Path, **more: Any) -> Measurement:
    task = MeasureTask(
        model=str(folder), home=str(home), encoder="minmax", sensitivity="weights", **more
    )
    result = run_task(task, lambda _: None).model_dump(mode="json")
    return Measurement.from_json(Path(result["measurement"]).read_bytes())


def test_it_is_measured_where_it_is_allowed(tmp_path: Path) -> None:
    folder = packed(tmp_path / "model", "llama", 4, 64, "affine")
    with pytest.raises(AlreadyQuantizedError):
        measured(folder, tmp_path / "home")
    found = measured(folder, tmp_path / "home", allow_quantized_source=True)
    assert {curve.path for curve in found.curves} >= {"model.layers.0.mlp.up_proj"}


def test_a_stored_measurement_is_called_as_the_model_is_now(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "secret-project", "llama")
    assert measured(first, tmp_path / "home").model.name == "secret-project"
    public = first.rename(tmp_path / "public")
    assert measured(public, tmp_path / "home").model.name == "public"
    assert measured(public, tmp_path / "home", name="org/name").model.name == "org/name"
