"""A manifest is checked against the arrays that files hold, whoever wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.layout import module_arrays, module_bytes, plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from tests.app.cli.conftest import Run, build_manifest

_TYPES = {Dtype.BF16: mx.bfloat16, Dtype.U32: mx.uint32, Dtype.U8: mx.uint8, Dtype.F32: mx.float32}


@pytest.fixture
def checkpoint(measurement: Measurement, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint as stock mlx-lm writes it, headers not padded, and its manifest."""
    manifest = build_manifest(measurement, "affine4g64")
    layout = plan_checkpoint(measurement.inventory)
    folder = tmp_path / "out"
    folder.mkdir()
    arrays = list(measurement.inventory.passthrough)
    for module in layout.inventory.modules:
        arrays += module_arrays(module, manifest.modules[module.path].format)
    weights = {array.name: mx.zeros(array.shape, _TYPES[array.dtype]) for array in arrays}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    config = {"quantization": manifest.quantization_config() | {"group_size": 32}}
    (folder / "config.json").write_text(json.dumps(config))
    file = tmp_path / "manifest.json"
    file.write_bytes(manifest.to_bytes())
    return file, folder


def test_what_stock_mlx_lm_wrote_is_taken_for_what_it_is(
    bitbudget: Run, checkpoint: tuple[Path, Path]
) -> None:
    file, folder = checkpoint
    checks = bitbudget("manifest", "verify", file, "--checkpoint", folder, "--json").document
    by_name = {check["name"]: check for check in checks["checks"]}
    assert by_name["formats in the files"]["holds"]
    assert "stock mlx-lm" in by_name["bytes on disk"]["detail"]


def test_a_module_edited_from_4_to_5_bits_fails_by_what_the_files_hold(
    bitbudget: Run, checkpoint: tuple[Path, Path], measurement: Measurement
) -> None:
    """The manifest and config.json agree with each other; the arrays do not."""
    file, folder = checkpoint
    document = json.loads(file.read_bytes())
    path, choice = next(
        (p, c) for p, c in document["modules"].items() if c["format"] == "affine4g64"
    )
    choice["format"] = "affine5g64"
    edited = Manifest.model_validate(document)
    file.write_bytes(edited.to_bytes())
    config = {"quantization": edited.quantization_config()}
    (folder / "config.json").write_text(json.dumps(config))
    answer = bitbudget("manifest", "verify", file, "--checkpoint", folder, "--json")
    assert answer.code == 1
    assert f"{path} is not affine5g64" in answer.document["detail"]
    module = measurement.inventory.module(path)
    choice["bytes"] = module_bytes(module, edited.modules[path].format)
    file.write_bytes(Manifest.model_validate(document).to_bytes())
    assert bitbudget("manifest", "verify", file, "--checkpoint", folder).code == 1


def test_a_kept_module_that_is_quantized_fails(
    bitbudget: Run, checkpoint: tuple[Path, Path]
) -> None:
    file, folder = checkpoint
    document = json.loads(file.read_bytes())
    path = next(p for p, c in document["modules"].items() if c["format"] != str(KEEP))
    document["modules"][path]["format"] = str(KEEP)
    file.write_bytes(Manifest.model_validate(document).to_bytes())
    answer = bitbudget("manifest", "verify", file, "--checkpoint", folder)
    assert (answer.code, "formats in config.json" in answer.err) == (1, True)
    assert f"{path} is not keep" in answer.err
