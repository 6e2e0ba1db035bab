"""Checkpoints in formats of our own: bytes, loaders, and who is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest

import bitbudget
from bitbudget.app.contract.tasks import JobTask
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import parse_format
from bitbudget.app.core.measurement import Encoder, Sensitivity
from bitbudget.app.core.requests import Deliver, JobRequest, Recover, Rotation
from bitbudget.app.core.runtime import Runtime
from bitbudget.metal_kernels import Order
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.pipeline.tasks import run_task
from bitbudget.workers.quantize.companions import MODEL_FILE, OUR_CODE
from bitbudget.workers.running.float32 import load_float32
from tests.workers.rotate.families import FAMILIES, make_model

TOKENS = mx.arange(9)[None]


def checkpoint(
    tmp_path: Path,
    family: str,
    formats: tuple[str, ...],
    rotation: Rotation = Rotation.NONE,
    **asked: Any,
) -> tuple[Path, dict[str, Any]]:
    make_model(tmp_path / "model", family, FAMILIES[family])
    request = JobRequest(
        model=str(tmp_path / "model"),
        encoder=Encoder.CAREFUL,
        sensitivity=Sensitivity.WEIGHTS,
        formats=tuple(map(parse_format, formats)),
        rotation=rotation,
        recover=Recover.NONE,
        deliver=Deliver.CHECKPOINT,
        sqnr_floor_db=0,
        **{"budget": "1GB", "runtime": Runtime.BITBUDGET} | asked,
    )
    task = JobTask(
        home=str(tmp_path / "home"), request=request, output=str(tmp_path / "out"), baseline=False
    )
    result = run_task(task, lambda _event: None).model_dump(mode="json")
    return tmp_path / "out", result


@pytest.mark.parametrize(
    ("family", "formats", "rotation"),
    [
        ("qwen3", ("two5g16",), Rotation.NONE),
        ("qwen3_moe", ("zero4g32", "sym8g32"), Rotation.NONE),
        ("llama", ("two5g32", "affine8g32"), Rotation.FUSED),
    ],
)
def test_all_loaders_give_the_same_outputs(
    tmp_path: Path, family: str, formats: tuple[str, ...], rotation: Rotation
) -> None:
    folder, result = checkpoint(tmp_path, family, formats, rotation)
    manifest = json.loads((folder / "manifest.json").read_text())
    chosen = {choice["format"] for choice in manifest["modules"].values()}
    assert chosen & set(formats)
    assert sum(f.stat().st_size for f in folder.glob("*.safetensors")) == result["file_bytes"]
    ours, _ = bitbudget.load_model(folder)
    flagged, _ = mlx_lm.utils.load_model(folder, trust_remote_code=True)
    original, _ = bitbudget.load_model(tmp_path / "model")
    found = [np.array(m(TOKENS).astype(mx.float32)) for m in (ours, flagged, load_float32(folder))]
    expected = np.array(original(TOKENS).astype(mx.float32))
    assert np.array_equal(found[0], found[1])
    assert np.allclose(found[0], found[2], atol=0.02 * np.abs(expected).max())
    assert np.square(found[0] - expected).mean() < 0.1 * np.square(expected).mean()
    assert result["evaluation"]["kl_nats_per_token"] >= 0
    card = (folder / "README.md").read_text()
    assert "trust_remote_code=True" in card
    assert "bitbudget.load" in card


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in a format of our own."""
    return checkpoint(tmp_path_factory.mktemp("own"), "qwen3", ("two4g32",))[0]


@pytest.mark.parametrize(
    ("rows", "order", "kernel"),
    [(1, Order.LINEAR, None), (9, Order.LINEAR, None), (64, None, None)]
    + [(64, order, "own_qmm") for order in Order],
)
def test_many_rows_run_in_the_tiled_kernel_where_it_was_faster(
    own: Path, monkeypatch: pytest.MonkeyPatch, rows: int, order: Order | None, kernel: str | None
) -> None:
    """On a CPU a kernel's call runs its reference, and few rows are dequantized."""
    monkeypatch.setattr("bitbudget.metal_kernels.own_order", lambda *_, **__: order)
    ours, _ = bitbudget.load_model(own)
    flagged, _ = mlx_lm.utils.load_model(own, trust_remote_code=True)
    for model in (ours, flagged):
        chosen = model.model.layers[0].mlp.down_proj._kernel(rows, rotate=False)
        assert (chosen and chosen[0]) == kernel
    tokens = mx.arange(rows)[None] % 32
    found, same = (np.array(m(tokens).astype(mx.float32)) for m in (ours, flagged))
    assert np.array_equal(found, same)
    monkeypatch.setattr("bitbudget.own_formats.metal_kernels", None)
    stock = np.array(ours(tokens).astype(mx.float32))
    assert np.allclose(found, stock, atol=0.02 * np.abs(stock).max())


def edited(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    """Return a copy of a checkpoint with another config.json; None removes an entry."""
    copy = tmp_path / "edited"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text()) | changes
    (copy / "config.json").unlink()
    kept = {key: value for key, value in config.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(kept))
    return copy


def test_a_stock_loader_is_told_what_loads_it(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bitbudget\.load"):
        mlx_lm.utils.load_model(own)
    without = edited(own, tmp_path, model_file=None)
    with pytest.raises(ValueError, match=r"bitbudget\.load:two"):
        mlx_lm.utils.load_model(without)


@pytest.mark.parametrize("entry", [None, {"version": 2, "dtype": "bfloat16"}], ids=["none", "2"])
def test_another_version_of_the_formats_is_refused(
    own: Path, tmp_path: Path, entry: dict[str, Any] | None
) -> None:
    folder = edited(own, tmp_path, bitbudget_formats=entry)
    with pytest.raises(InvalidModelError, match="version"):
        bitbudget.load_model(folder)


def test_a_format_that_the_reader_does_not_know_is_refused(own: Path, tmp_path: Path) -> None:
    entries = json.loads((own / "config.json").read_text())["quantization"]
    path = next(p for p, e in entries.items() if isinstance(e, dict))
    changed = {**entries, path: {**entries[path], "mode": "bitbudget.load:three"}}
    with pytest.raises(InvalidModelError, match="three"):
        bitbudget.load_model(edited(own, tmp_path, quantization=changed))


def test_the_checkpoint_holds_what_the_core_says(own: Path) -> None:
    """The arrays in the file, decoded by the core's reader, are the weights that are run."""
    arrays: Any = mx.load(str(own / "model.safetensors"))
    entries = json.loads((own / "config.json").read_text())["quantization"]
    path = next(p for p, e in entries.items() if isinstance(e, dict))
    format_ = parse_format("two4g32")
    stored = {s: arrays[f"{path}.{s}"] for s in ("weight", "scales", "spans")}
    raw = {s: np.array(a.view(mx.uint16) if s == "spans" else a) for s, a in stored.items()}
    module = dict(load_float32(own).named_modules())[path]
    assert np.array_equal(dequantize(raw, format_, Dtype.BF16), np.array(module.weight))
    assert all((own / name).read_bytes() == p.read_bytes() for name, p in OUR_CODE.items())
    assert json.loads((own / "config.json").read_text())["model_file"] == MODEL_FILE
