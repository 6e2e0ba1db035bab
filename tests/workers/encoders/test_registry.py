"""What is measured is what is written, for every encoder, format and module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.formats import AFFINE_FORMATS, LOSSY_FORMATS, Format, parse_format
from bitbudget.workers.encoders import registry
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.registry import ModuleEncoder, encode
from bitbudget.workers.fisher import KroneckerTerm, ModuleStatistics
from bitbudget.workers.native.arrays import Array, as_float32, from_float32
from bitbudget.workers.sweep import measure_weight

mx: Any = pytest.importorskip("mlx.core")
RNG = np.random.default_rng(3)


def weight_of(dtype: Dtype, out: int = 64, width: int = 256) -> Array:
    values = (RNG.standard_t(4, (out, width)) * 0.02).astype(np.float32)
    values[3] = 0
    return from_float32(values, dtype)


def statistics(out: int, width: int) -> ModuleStatistics:
    columns, rows = np.eye(width, dtype=np.float32), np.eye(out, dtype=np.float32)
    terms = (KroneckerTerm(columns / width, rows),)
    return ModuleStatistics("m", 1.0, np.ones(out), np.ones(width), terms, np.array(1000))


@pytest.mark.parametrize("dtype", [Dtype.BF16, Dtype.F16, Dtype.F32])
@pytest.mark.parametrize("format_", [f for f in LOSSY_FORMATS if f.is_stock], ids=str)
def test_dequantize_is_that_of_mlx_bit_for_bit(format_: Format, dtype: Dtype) -> None:
    arrays = encode(weight_of(dtype), dtype, format_, Encoder.CAREFUL)
    stored = {s: mx.array(a) for s, a in arrays.items()}
    if format_ in AFFINE_FORMATS:
        for suffix in ("scales", "biases"):
            stored[suffix] = mx.array(as_float32(arrays[suffix], dtype))
    expected = mx.dequantize(
        stored["weight"],
        stored["scales"],
        stored.get("biases"),
        group_size=format_.group_size,
        bits=format_.bits,
        mode=format_.mode.value,
    )
    np.testing.assert_array_equal(
        dequantize(arrays, format_, dtype), np.array(expected.astype(mx.float32))
    )


@pytest.mark.parametrize("encoder", Encoder)
@pytest.mark.parametrize("known", [True, False], ids=["with statistics", "without"])
def test_values_are_those_of_the_arrays(encoder: Encoder, *, known: bool) -> None:
    weight = weight_of(Dtype.BF16)
    module = ModuleEncoder(statistics(*weight.shape) if known else None, encoder)
    values = as_float32(weight, Dtype.BF16)
    for format_, measured in module.values(values, Dtype.BF16, LOSSY_FORMATS):
        written = module.encode(weight, Dtype.BF16, format_)
        np.testing.assert_array_equal(measured, dequantize(written, format_, Dtype.BF16))


def test_a_module_that_saw_no_gradient_is_coded_by_its_weights() -> None:
    weight, format_ = weight_of(Dtype.BF16), parse_format("affine4g64")
    unseen = replace(statistics(*weight.shape), alpha_nats=0.0)
    module = ModuleEncoder(unseen, Encoder.YAQA)
    assert not module.uses_statistics(format_)
    found = module.encode(weight, Dtype.BF16, format_)
    expected = encode(weight, Dtype.BF16, format_, Encoder.CAREFUL)
    for suffix, array in expected.items():
        np.testing.assert_array_equal(found[suffix], array)


@pytest.mark.parametrize("encoder", [Encoder.MINMAX, Encoder.CAREFUL])
def test_sweep_of_an_encoder_without_a_kernel_measures_what_it_writes(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = weight_of(Dtype.BF16)
    swept = measure_weight([weight], Dtype.BF16, LOSSY_FORMATS, encoder)
    monkeypatch.setattr(registry, "_SWEEP_KERNELS", {})
    encoded = measure_weight([weight], Dtype.BF16, LOSSY_FORMATS, encoder)
    assert encoded.features == swept.features
    for format_ in LOSSY_FORMATS:
        assert encoded.t2[format_] == pytest.approx(swept.t2[format_], rel=2e-3)
        stored = dequantize(encode(weight, Dtype.BF16, format_, encoder), format_, Dtype.BF16)
        values = as_float32(weight, Dtype.BF16).astype(np.float64)
        t2 = np.square(stored - values).sum() / np.square(values).sum()
        assert encoded.t2[format_] == pytest.approx(t2, rel=1e-5)
