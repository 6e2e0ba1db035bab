from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import (
    AFFINE_BITS,
    AFFINE_FORMATS,
    ALL_FORMATS,
    FLOAT_FORMATS,
    KEEP,
    OWN_FORMATS,
    STOCK_FORMATS,
    Format,
)
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders import affine, number_formats
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.packing import pack, unpack
from bitbudget.workers.encoders.registry import encode
from bitbudget.workers.native.arrays import Array, from_float32
from bitbudget.workers.native.loader import kernels, supported_variants

mx: Any = pytest.importorskip("mlx.core")
MLX_TYPES = {Dtype.BF16: mx.bfloat16, Dtype.F16: mx.float16, Dtype.F32: mx.float32}


def bits_of(array: Any) -> Array:
    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16))
    return np.array(array)


def weight_of(values: npt.NDArray[np.float32], dtype: Dtype) -> Array:
    return from_float32(values, dtype)


def as_mlx(weight: Array, dtype: Dtype) -> Any:
    array = mx.array(weight)
    return array.view(mx.bfloat16) if dtype is Dtype.BF16 else array


def tricky(shape: tuple[int, int], dtype: Dtype) -> Array:
    """Heavy tails, ties, symmetric groups, constants, zeros, tiny values and denormals."""
    rng = np.random.default_rng(3)
    values = (0.05 * rng.standard_t(4, size=shape)).astype(np.float32)
    values[0] = np.round(values[0] * 64) / 64
    values[1, ::2] = -values[1, 1::2]
    values[2] = 0.25
    values[3] = 0
    values[4] = 1e-8 * rng.standard_normal(shape[1])
    values[5] = 1e-40
    values[6] = np.abs(values[6])
    values[7] = -np.abs(values[7])
    return weight_of(values, dtype)


@pytest.mark.parametrize("dtype", list(MLX_TYPES))
@pytest.mark.parametrize("format_", AFFINE_FORMATS, ids=str)
def test_minmax_is_bit_exact_with_mlx(format_: Format, dtype: Dtype) -> None:
    weight = tricky((24, 384), dtype)
    expected = mx.quantize(as_mlx(weight, dtype), format_.group_size, format_.bits, stream=mx.cpu)
    arrays = encode(weight, dtype, format_, Encoder.MINMAX)
    for name, array in zip(("weight", "scales", "biases"), expected, strict=True):
        assert np.array_equal(arrays[name], bits_of(array)), name


@pytest.mark.parametrize("format_", FLOAT_FORMATS, ids=str)
def test_float_formats_are_bit_exact_with_mlx_for_float32(format_: Format) -> None:
    rng = np.random.default_rng(4)
    weight = (0.5 * rng.standard_t(5, size=(32, 256))).astype(np.float32)
    mode = format_.mode.value
    codes, scales = mx.quantize(
        mx.array(weight), format_.group_size, format_.bits, mode=mode, stream=mx.cpu
    )
    arrays = encode(weight, Dtype.F32, format_, Encoder.MINMAX)
    assert np.array_equal(arrays["scales"], np.array(scales))
    assert np.array_equal(arrays["weight"], np.array(codes))


@pytest.mark.parametrize("format_", ALL_FORMATS, ids=str)
@pytest.mark.parametrize("encoder", [Encoder.MINMAX, Encoder.CAREFUL])
def test_arrays_are_the_ones_the_format_names(format_: Format, encoder: Encoder) -> None:
    weight = tricky((16, 128), Dtype.BF16).reshape(2, 8, 128)
    arrays = encode(weight, Dtype.BF16, format_, encoder)
    specs = format_.arrays(weight.shape, Dtype.BF16)
    assert list(arrays) == [spec.suffix for spec in specs]
    for spec in specs:
        assert arrays[spec.suffix].shape == spec.shape
        assert arrays[spec.suffix].nbytes == spec.nbytes


@pytest.mark.parametrize("encoder", [Encoder.MINMAX, Encoder.CAREFUL])
def test_every_variant_gives_the_same_bytes(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set[str]()
    for variant in supported_variants():
        chosen = kernels(variant)
        monkeypatch.setattr(affine, "kernels", lambda chosen=chosen: chosen)
        digest = hashlib.sha256()
        for dtype in MLX_TYPES:
            for format_ in AFFINE_FORMATS:
                for array in encode(tricky((40, 256), dtype), dtype, format_, encoder).values():
                    digest.update(array.tobytes())
        digests.add(digest.hexdigest())
    assert len(digests) == 1


def test_careful_bytes_are_pinned() -> None:
    """The same input gives these bytes on every platform."""
    digest = hashlib.sha256()
    for format_ in AFFINE_FORMATS:
        values = (np.arange(8192, dtype=np.int64) * 7919 % 1009 - 504).astype(
            np.float32
        ) / np.float32(4096)
        weight = weight_of((values**3 * np.float32(50)).reshape(32, 256), Dtype.BF16)
        for array in encode(weight, Dtype.BF16, format_, Encoder.CAREFUL).values():
            digest.update(array.tobytes())
    assert digest.hexdigest() == "41f9305ac7232c394aa18b0c8649add0e058102e552b0f998f5aba0b4be7b4d1"


@pytest.mark.parametrize("bits", AFFINE_BITS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), turns=st.integers(1, 5))
def test_packing_round_trips(bits: int, seed: int, rows: int, turns: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (rows, 32 * turns), dtype=np.uint8)
    words = pack(codes, bits)
    assert words.shape == (rows, turns * bits)
    assert np.array_equal(unpack(words, bits), codes)


def test_keep_returns_the_weight() -> None:
    weight = np.arange(6, dtype=np.int8).reshape(2, 3)
    assert encode(weight, Dtype.I8, KEEP, Encoder.CAREFUL)["weight"] is weight


def test_what_does_not_fit_is_refused() -> None:
    weight = np.ones((2, 96), np.float32)
    with pytest.raises(InvalidRequestError, match="multiple of 64"):
        encode(weight, Dtype.F32, AFFINE_FORMATS[1], Encoder.MINMAX)
    with pytest.raises(InvalidRequestError, match="minmax or careful"):
        encode(weight, Dtype.F32, AFFINE_FORMATS[0], Encoder.GPTQ)


@pytest.mark.parametrize("format_", [*STOCK_FORMATS, *OWN_FORMATS], ids=str)
def test_what_is_decoded_in_parts_is_the_whole(
    format_: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).standard_normal((3, 7, 256), np.float32)
    arrays = encode(weight_of(values, Dtype.BF16), Dtype.BF16, format_, Encoder.MINMAX)
    whole = dequantize(arrays, format_, Dtype.BF16)
    monkeypatch.setattr(number_formats, "_WEIGHTS_AT_ONCE", 4 * 256)
    assert np.array_equal(dequantize(arrays, format_, Dtype.BF16), whole)
    assert whole.shape == values.shape
