from __future__ import annotations

import mlx.core as mx
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import (
    ALL_FORMATS,
    KEEP,
    OWN_FORMATS,
    STOCK_FORMATS,
    Format,
    Mode,
    parse_format,
)

MLX_TYPES = {Dtype.BF16: mx.bfloat16, Dtype.F16: mx.float16, Dtype.F32: mx.float32}
STORED = {
    mx.uint32: Dtype.U32,
    mx.uint8: Dtype.U8,
    mx.bfloat16: Dtype.BF16,
    mx.float16: Dtype.F16,
    mx.float32: Dtype.F32,
}


@pytest.mark.parametrize("dtype", MLX_TYPES, ids=str)
@pytest.mark.parametrize("format_", [f for f in STOCK_FORMATS if f != KEEP], ids=str)
@pytest.mark.parametrize("shape", [(3, 128), (2, 5, 384)], ids=str)
def test_arrays_are_those_mlx_makes(format_: Format, dtype: Dtype, shape: tuple[int, ...]) -> None:
    weight = mx.ones(shape, dtype=MLX_TYPES[dtype])
    made = mx.quantize(
        weight, group_size=format_.group_size, bits=format_.bits, mode=format_.mode.value
    )
    expected = format_.arrays(shape, dtype)
    assert [(STORED[a.dtype], a.shape) for a in made] == [(s.dtype, s.shape) for s in expected]
    assert sum(array.nbytes for array in made) == format_.data_bytes(shape, dtype)


@pytest.mark.parametrize(
    ("name", "bits", "odd"),
    [
        ("two3g16", 3.625, 3.5 + 32 * 2 / 352),
        ("two5g32", 5.375, 5.25 + 32 * 2 / 352),
        ("zero4g32", 4.625, 4 + (16 * 11 + 4 * 12) / 352),
        ("sym8g32", 8.5, 8.5),
    ],
)
def test_our_own_formats_take_what_they_say(name: str, bits: float, odd: float) -> None:
    format_ = parse_format(name)
    assert 8 * format_.data_bytes((4, 1024), Dtype.BF16) == bits * 4096
    assert 8 * format_.data_bytes((4, 352), Dtype.F32) == pytest.approx(odd * 4 * 352)
    assert format_ in OWN_FORMATS
    assert format_ not in STOCK_FORMATS
    assert not format_.is_legal(172, Dtype.BF16)


def test_every_name_reads_back() -> None:
    assert [parse_format(str(format_)) for format_ in ALL_FORMATS] == list(ALL_FORMATS)


def test_an_unknown_name_says_what_is_expected() -> None:
    with pytest.raises(InvalidRequestError, match=r"affine7g64.*affine4g64"):
        parse_format("affine7g64")


@pytest.mark.parametrize(
    ("width", "legal"),
    [(172, set()), (352, {32}), (64, {32, 64}), (128, {32, 64, 128}), (0, set())],
)
def test_a_group_must_divide_the_input_width(width: int, legal: set[int]) -> None:
    affine = [f for f in ALL_FORMATS if f.mode is Mode.AFFINE]
    found = {f.group_size for f in affine if f.is_legal(width, Dtype.BF16)}
    assert found == legal


def test_keep_is_always_legal_and_costs_the_source() -> None:
    assert KEEP.is_legal(7, Dtype.I8)
    assert KEEP.data_bytes((3, 7), Dtype.BF16) == 42


def test_float32_scales_are_charged() -> None:
    affine4g64 = parse_format("affine4g64")
    assert affine4g64.bits_per_weight(Dtype.BF16) == 4.5
    assert affine4g64.bits_per_weight(Dtype.F32) == 5.0


@pytest.mark.parametrize("dtype", list(Dtype))
def test_item_sizes(dtype: Dtype) -> None:
    assert dtype.itemsize == {"8": 1, "L": 1, "6": 2, "2": 4, "4": 8}[_width(dtype)]


def _width(dtype: Dtype) -> str:
    return dtype.value.split("_")[0][-1]
