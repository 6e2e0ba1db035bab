"""Fused rotations: exact before quantization, and the same through every way of loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from mlx import nn
from mlx_lm.generate import generate_step

import bitbudget
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.requests import Rotation
from bitbudget.metal_kernels import Order
from bitbudget.rotated_model import butterfly
from bitbudget.workers.fisher import collect_statistics
from bitbudget.workers.models import build_inventory
from bitbudget.workers.quantize.companions import MODEL_FILE
from bitbudget.workers.rotate import rotate_checkpoint
from bitbudget.workers.running.float32 import load_float32
from tests.workers.rotate.families import FAMILIES, SAMPLE, make_model

GEMMA: dict[str, Any] = {
    "num_hidden_layers": 2,
    "sliding_window": 64,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 32,
}
FUSED = {
    **{name: FAMILIES[name] for name in ("llama", "llama-tied", "qwen3", "qwen3_moe")},
    **{name: FAMILIES[name] for name in ("qwen3_5", "qwen3_5_moe", "phi3", "gpt_oss")},
    "gemma3_text": GEMMA,
}
TOKENS = mx.arange(9)[None]


@pytest.mark.parametrize("family", FUSED)
def test_a_fused_rotation_changes_nothing(tmp_path: Path, family: str) -> None:
    checkpoint = make_model(tmp_path / "model", family, FUSED[family])
    twin, report = rotate_checkpoint(
        checkpoint, tmp_path / "rotated", Rotation.FUSED, sample=SAMPLE
    )
    assert report.kl_nats_per_token < 1e-9
    assert not report.untied_head
    spec = twin.config["bitbudget_rotation"]
    layers = len(build_inventory(checkpoint).architecture.cache) or 2
    assert len(spec["norms"]) == 2 * layers
    assert len(spec["inputs"]) == layers
    assert len(spec["layers"]) == (0 if family == "gemma3_text" else layers)
    assert bool(spec["gated"]) == (family != "gpt_oss")
    assert any("down_proj" in reason for reason in report.left_out) == (family == "gpt_oss")
    assert build_inventory(twin).modules == build_inventory(checkpoint).modules


def quantized_fused(tmp_path: Path, family: str) -> Path:
    """Write a quantized fused checkpoint of `family` with its model file."""
    checkpoint = make_model(tmp_path / "model", family, FUSED[family])
    twin, _ = rotate_checkpoint(checkpoint, tmp_path / "rotated", Rotation.FUSED, sample=SAMPLE)
    model = twin.model()
    _, config = mlx_lm.utils.quantize_model(model, dict(twin.config), 32, 4)
    folder = tmp_path / "quantized"
    folder.mkdir()
    source = Path(bitbudget.__file__).with_name("rotated_model.py")
    (folder / MODEL_FILE).write_text(source.read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": MODEL_FILE}))
    mlx_lm.utils.save_model(folder, model)
    return folder


@pytest.fixture
def fused_folder(tmp_path: Path) -> Path:
    """A quantized fused checkpoint with its model file."""
    return quantized_fused(tmp_path, "qwen3")


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_moe", "phi3", "gemma3_text"]
)
def test_our_loader_and_the_model_file_write_the_same_text(tmp_path: Path, family: str) -> None:
    folder = quantized_fused(tmp_path, family)
    ours, _ = bitbudget.load_model(folder)
    stock, _ = mlx_lm.utils.load_model(folder, trust_remote_code=True)
    assert any(type(m).__name__ == "RotatedQuantizedLinear" for m in ours.modules())
    assert np.array_equal(np.array(ours(TOKENS)), np.array(stock(TOKENS)))
    written = [
        [int(token) for token, _ in generate_step(TOKENS[0], model, max_tokens=8)]
        for model in (ours, stock)
    ]
    assert written[0] == written[1]


def test_the_outputs_do_not_need_our_package(fused_folder: Path, monkeypatch: Any) -> None:
    with_kernels, _ = bitbudget.load_model(fused_folder)
    expected = np.array(with_kernels(TOKENS))
    monkeypatch.setattr("bitbudget.rotated_model.metal_kernels", None)
    without, _ = bitbudget.load_model(fused_folder)
    assert np.allclose(np.array(without(TOKENS)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "order", "kernel"),
    [
        (1, Order.LINEAR, ("rht_qmv", {})),
        (8, Order.LINEAR, ("rht_qmv", {})),
        (9, Order.LINEAR, None),
        (64, None, None),
        (64, Order.LINEAR, ("rht_qmm", {"order": Order.LINEAR})),
        (64, Order.MORTON, ("rht_qmm", {"order": Order.MORTON})),
    ],
)
def test_a_product_takes_the_kernel_for_its_rows(
    fused_folder: Path, monkeypatch: Any, rows: int, order: Order | None, kernel: Any
) -> None:
    monkeypatch.setattr("bitbudget.metal_kernels.rht_order", lambda _bits, _group: order)
    model, _ = bitbudget.load_model(fused_folder)
    linear = model.model.layers[0].self_attn.o_proj
    assert linear._kernel(rows) == kernel
    x = mx.random.normal((1, rows, 64), key=mx.random.key(rows))
    stock = nn.QuantizedLinear.__call__(linear, butterfly(x))
    assert np.allclose(np.array(linear(x)), np.array(stock), rtol=1e-4, atol=1e-4)


def test_stock_mlx_lm_refuses_without_the_flag(fused_folder: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        mlx_lm.utils.load_model(fused_folder)


@pytest.mark.parametrize("change", [{"seed": 1}, {"norms": []}, {"version": 9}])
def test_a_rotation_that_does_not_belong_to_the_weights_is_refused(
    fused_folder: Path, change: dict[str, Any]
) -> None:
    path = fused_folder / "config.json"
    config = json.loads(path.read_text())
    config["bitbudget_rotation"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(InvalidModelError, match=r"digest|version"):
        bitbudget.load_model(fused_folder)
    with pytest.raises(InvalidModelError, match="quantize the model again"):
        load_float32(fused_folder)
    with pytest.raises(ValueError, match=r"digest|version"):
        mlx_lm.utils.load_model(fused_folder, trust_remote_code=True)


def test_statistics_see_the_rotated_input(tmp_path: Path) -> None:
    checkpoint = make_model(tmp_path / "model", "qwen3", FUSED["qwen3"])
    twin, _ = rotate_checkpoint(checkpoint, tmp_path / "rotated", Rotation.FUSED, sample=SAMPLE)
    tokens = np.arange(32, dtype=np.int32).reshape(2, 16)
    path = "model.layers.1.self_attn.o_proj"
    plain, turned = (collect_statistics(each, tokens, seed=0)[path] for each in (checkpoint, twin))
    assert turned.alpha_nats == pytest.approx(plain.alpha_nats, rel=1e-3)
    before, after = (np.linalg.eigvalsh(found.terms[0].columns) for found in (plain, turned))
    assert np.allclose(after, before, atol=1e-4)
