"""Frontier, fit and baseline against what `mlx_lm.convert` really writes, array by array."""

from __future__ import annotations

import importlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.core.baselines import MIXED_RECIPES, UNIFORM, mixed_formats, uniform_formats
from bitbudget.app.core.devices import device
from bitbudget.app.core.fit_report import fit
from bitbudget.app.core.formats import Format, parse_format
from bitbudget.app.core.frontier import frontier
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import module_arrays, plan_checkpoint
from bitbudget.app.core.measurement import Curve, CurvePoint, Encoder, Measurement, Sensitivity
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.pipeline.steps.baseline import uniform_manifest
from bitbudget.workers.quantize import write_checkpoint
from tests.workers.models.tiny import CONFIGS, write_tiny

FORMATS = ("affine4g64", "affine2g32", "affine8g128", "mxfp4", "nvfp4")
READ_RAW = ("seed_oss", "minicpm")
"""mlx-lm quantizes an embedding of theirs that the model file then cannot multiply by."""
ODD_WIDTH: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32}
"""Inputs that groups of 64 do not divide."""


def converted(folder: Path, output: Path, **how: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape by name of every array that stock mlx-lm writes."""
    utilities = importlib.import_module("mlx_lm.utils")
    recipe = how.pop("recipe", None)
    model, config = utilities.load_model(folder, lazy=True)
    predicate = None
    if recipe is not None:
        convert = importlib.import_module("mlx_lm.convert")
        predicate = convert.mixed_quant_predicate_builder(recipe, model, None)
    model, config = utilities.quantize_model(model, config, **how, quant_predicate=predicate)
    utilities.save_model(output, model)
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in output.glob("*.safetensors"):
        data = file.read_bytes()
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        for name, entry in header.items():
            if name != "__metadata__":
                arrays[name] = entry["dtype"], tuple(entry["shape"])
    return arrays


def ours(
    inventory: Inventory, formats: dict[str, Format]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    modules = [a for m in inventory.modules for a in module_arrays(m, formats[m.path])]
    return {a.name: (a.dtype.value, a.shape) for a in (*modules, *inventory.passthrough)}


def how_of(format_: Format) -> dict[str, Any]:
    return {"group_size": format_.group_size, "bits": format_.bits, "mode": format_.mode.value}


def invented(checkpoint: Checkpoint, inventory: Inventory) -> Measurement:
    """Return a measurement of every legal format, whose costs do not matter."""
    curves = tuple(
        Curve(m.path, 1.0, tuple(CurvePoint(f, 1e-3, 1e-3) for f in m.legal_formats()))
        for m in inventory.modules
    )
    identity = checkpoint.identity()
    return Measurement(identity, inventory, Encoder.MINMAX, Sensitivity.WEIGHTS, curves)


@pytest.mark.parametrize("model_type", sorted(set(CONFIGS) - set(READ_RAW)))
def test_every_architecture_is_stored_as_mlx_lm_stores_it(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    inventory = build_inventory(open_checkpoint(folder))
    stock = converted(folder, tmp_path / "stock", **how_of(UNIFORM))
    assert ours(inventory, uniform_formats(inventory, UNIFORM)) == stock


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("qwen3", {}),
        ("qwen3", {"tie_word_embeddings": False}),
        ("qwen3", ODD_WIDTH),
        ("qwen3_moe", {}),
        ("llama", {"tie_word_embeddings": False, "num_hidden_layers": 9}),
    ],
    ids=["dense, tied", "dense, untied", "dense, odd width", "moe", "nine layers"],
)
def test_frontier_fit_and_baseline_count_what_mlx_lm_writes(
    model_type: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", model_type, **changes)
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    measurement = invented(checkpoint, inventory)
    layout = plan_checkpoint(inventory)
    marked = {p.name: p for p in frontier(measurement, sqnr_floor_db=0).uniform}
    fitted = {c.name: c for c in fit(inventory, device("m4-pro-24gb"), 128).uniform}
    for name in FORMATS:
        format_ = parse_format(name)
        formats = uniform_formats(inventory, format_)
        stock = converted(folder, tmp_path / name, **how_of(format_))
        assert ours(inventory, formats) == stock
        manifest = uniform_manifest(measurement, format_)
        nbytes = layout.file_bytes(formats)
        assert marked[name].file_bytes == fitted[name].file_bytes == nbytes
        assert manifest.file_bytes == nbytes
        assert {path: c.format for path, c in manifest.modules.items()} == formats


@pytest.mark.parametrize("recipe", sorted(MIXED_RECIPES))
@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe"])
def test_recipes_are_those_of_mlx_lm(model_type: str, recipe: str, tmp_path: Path) -> None:
    layers = {"num_hidden_layers": 9, "tie_word_embeddings": False}
    folder = write_tiny(tmp_path / "model", model_type, **layers)
    inventory = build_inventory(open_checkpoint(folder))
    stock = converted(folder, tmp_path / "stock", group_size=None, bits=None, recipe=recipe)
    assert ours(inventory, mixed_formats(inventory, recipe)) == stock


def test_a_model_without_down_projections_has_no_recipe(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "gpt2")
    inventory = build_inventory(open_checkpoint(folder))
    with pytest.raises(ValueError, match="expected keys"):
        converted(folder, tmp_path / "stock", group_size=None, bits=None, recipe="mixed_3_6")
    assert mixed_formats(inventory, "mixed_3_6") == {}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every array of a checkpoint by name."""
    found = {}
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        first = 8 + struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:first]).items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                found[name] = data[first + start : first + stop]
    return found


@pytest.mark.parametrize("name", ["tinyqwen3-dense", "tinyqwen3-moe", "stories260K-llama"])
def test_the_baseline_has_the_very_bytes_of_convert(
    name: str, fixtures_dir: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(fixtures_dir / name)
    inventory = build_inventory(checkpoint)
    manifest = uniform_manifest(invented(checkpoint, inventory), UNIFORM)
    written = write_checkpoint(
        checkpoint, inventory, manifest, tmp_path / "ours", progress=lambda *_: None
    )
    convert = importlib.import_module("mlx_lm.convert").convert
    convert(str(fixtures_dir / name), str(tmp_path / "stock"), quantize=True)
    assert contents(written.folder) == contents(tmp_path / "stock")
    sizes = [file.stat().st_size for file in written.folder.glob("*.safetensors")]
    assert sum(sizes) == manifest.file_bytes
