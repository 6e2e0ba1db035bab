"""Rounded activations: a plain loop, what they cost in KL, and what single modules cost."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_lm.convert import convert

from bitbudget.app.core.activations import ActivationFormat, runs_int8
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import parse_format
from bitbudget.workers.evaluate.activation_costs import input_costs
from bitbudget.workers.evaluate.activations import (
    Rounded,
    quantized_paths,
    rounded_inputs,
)
from bitbudget.workers.evaluate.teacher import batches, teach, token_kl
from bitbudget.workers.evaluate.windows import rollout_windows
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.rounding import rounded

INT8 = ActivationFormat.parse("int8:128")
INT4 = ActivationFormat.parse("int4:64")


@pytest.fixture(scope="module")
def checkpoint(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("activations") / "uniform"
    convert(str(sample_model), str(folder), quantize=True, q_bits=4, q_group_size=64)
    return folder


@pytest.mark.parametrize("width", [128, 256, 192, 172])
@pytest.mark.parametrize("format_", [INT8, INT4], ids=str)
def test_rounding_is_that_of_a_plain_loop(width: int, format_: ActivationFormat) -> None:
    x = np.random.default_rng(width).standard_normal((2, 3, width)).astype(np.float32)
    x[0, 0] = 0
    expected = np.empty_like(x)
    for token in np.ndindex(2, 3):
        for start in range(0, width, format_.group_size):
            group = x[token][start : start + format_.group_size]
            scale = np.abs(group).max() / np.float32(format_.levels)
            codes = np.rint(group / (scale or 1))
            expected[token][start : start + format_.group_size] = scale * codes
    assert np.allclose(np.array(rounded(mx.array(x), format_)), expected, rtol=1e-6, atol=1e-7)


def test_a_rotation_is_undone_and_spreads_an_outlier() -> None:
    x = np.random.default_rng(0).standard_normal((4, 128)).astype(np.float32)
    x[:, 3] = 60
    errors = [
        np.delete(np.array(rounded(mx.array(x), INT8, rotate=rotate)) - x, 3, axis=1)
        for rotate in (False, True)
    ]
    assert np.square(errors[1]).mean() < 0.3 * np.square(errors[0]).mean()
    fine = ActivationFormat(8, 1)
    assert np.allclose(np.array(rounded(mx.array(x), fine, rotate=True)), x, atol=1e-4)


def test_modules_that_are_quantized_read_rounded_inputs(checkpoint: Path) -> None:
    paths = quantized_paths(checkpoint)
    assert "model.layers.0.mlp.down_proj" in paths
    ids = mx.array([[0, 5, 9, 14]])
    model = load_float32(checkpoint)
    exact = np.array(model(ids))
    with rounded_inputs(model, paths, INT8):
        inside = np.array(model(ids))
    assert np.array_equal(np.array(model(ids)), exact)
    assert np.array_equal(np.array(Rounded(checkpoint, INT8)(ids)), inside)
    assert 0 < np.abs(inside - exact).max() < 0.5
    down = model.model.layers[0].mlp.down_proj
    x = mx.random.normal((3, down.weight.shape[-1]))
    with rounded_inputs(model, ["model.layers.0.mlp.down_proj"], INT8):
        assert mx.allclose(down(x), nn.Linear.__call__(down, rounded(x, INT8)))


@pytest.mark.slow
def test_costs_of_single_modules_are_the_kl_that_is_measured(
    checkpoint: Path,
) -> None:
    model = load_float32(checkpoint)
    windows = rollout_windows(checkpoint, 12, seed=5, length=96)
    paths = quantized_paths(checkpoint)
    costs = input_costs(model, windows, paths, INT4)
    taught = [teach(model, part, "exact") for part in batches(model, windows)]
    worst = sorted(costs, key=lambda path: -costs[path][0])
    ratios = {}
    for path in (*worst[:2], worst[8]):
        with rounded_inputs(model, [path], INT4):
            kl = np.mean([token_kl(batch, model, path).mean() for batch in taught])
        ratios[path] = costs[path][0] / float(kl)
    assert all(0.8 < ratio < 1.25 for ratio in ratios.values()), ratios
    with rounded_inputs(model, paths, INT8):
        whole = np.mean([token_kl(batch, model, "all").mean() for batch in taught])
    summed = sum(cost for cost, _ in input_costs(model, windows, paths, INT8).values())
    assert 0.8 < summed / float(whole) < 1.25


def test_the_weights_that_engines_run_so() -> None:
    said = {name: runs_int8(parse_format(name)) for name in ("affine4g64", "affine5g64")}
    assert all(said.values())
    assert not any(runs_int8(parse_format(name)) for name in ("affine4g32", "affine8g64", "mxfp4"))


@pytest.mark.parametrize("text", ["int8", "int3:128", "fp8:128", "int8:0", "int8:-1"])
def test_a_format_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="--activations"):
        ActivationFormat.parse(text)
