from __future__ import annotations

import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format, Mode
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.native.arrays import Array, to_float32
from bitbudget.workers.sweep import measure_weight
from bitbudget.workers.sweep import plan as plan_module
from bitbudget.workers.sweep.reference import affine_codes, affine_parameters, stored
from tests.workers.streaming.conftest import random_weight


def exact_noise(weight: Array, dtype: Dtype, gains: Array) -> float:
    values = to_float32(weight, dtype)
    groups = values.reshape(-1, 32)
    scale, bias = affine_parameters(groups, 4)
    scale_stored, bias_stored = stored(scale, dtype), stored(bias, dtype)
    codes = affine_codes(groups, scale, bias, 4)
    restored = codes.astype(np.float64) * scale_stored + bias_stored
    errors = ((restored - groups) ** 2).reshape(values.shape)
    powers = gains.astype(np.float64) ** 2
    return float((errors @ powers).sum() / (values.astype(np.float64) ** 2 @ powers).sum())


@pytest.mark.parametrize("dtype", [Dtype.BF16, Dtype.F16, Dtype.F32])
@pytest.mark.parametrize("width", [32, 96, 544, 1024])
def test_output_noise_is_that_of_the_definition(dtype: Dtype, width: int) -> None:
    weight = random_weight((60, width), dtype)
    gains = np.random.default_rng(1).lognormal(0, 1, width).astype(np.float32)
    features = measure_weight([weight], dtype, (), Encoder.MINMAX, gains=gains).features
    assert features["output_noise"] == pytest.approx(exact_noise(weight, dtype, gains), rel=1e-4)


def test_equal_gains_give_the_error_of_the_weights() -> None:
    format_ = Format(Mode.AFFINE, 4, 32)
    weight = random_weight((64, 256))
    found = measure_weight(
        [weight], Dtype.BF16, (format_,), Encoder.MINMAX, gains=np.full(256, 3, np.float32)
    )
    assert found.features["output_noise"] == pytest.approx(found.t2[format_], rel=1e-4)


def test_a_loud_channel_in_a_coarse_group_makes_more_noise() -> None:
    weight = random_weight((64, 256), Dtype.F32)
    weight[:, 7] *= 30
    quiet = np.ones(256, np.float32)
    loud = quiet.copy()
    loud[8:16] = 10
    noise = [
        measure_weight([weight], Dtype.F32, (), Encoder.MINMAX, gains=gains).features
        for gains in (quiet, loud)
    ]
    assert noise[1]["output_noise"] > 5 * noise[0]["output_noise"]


def test_segments_and_stacks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SEGMENT_WEIGHTS", 4096)
    weight = random_weight((4, 64, 128))
    gains = np.linspace(0.1, 2, 128).astype(np.float32)
    found = measure_weight([weight], Dtype.BF16, (), Encoder.MINMAX, gains=gains)
    exact = exact_noise(weight.reshape(-1, 128), Dtype.BF16, gains)
    assert found.features["output_noise"] == pytest.approx(exact, rel=1e-4)


def test_without_gains_nothing_is_said_of_the_output() -> None:
    features = measure_weight([random_weight((8, 64))], Dtype.BF16, (), Encoder.MINMAX).features
    assert "output_noise" not in features
