"""Device memory traffic, counted load by load: a fused transform moves no byte of its own."""

from __future__ import annotations

import mlx.core as mx
import pytest

from bitbudget.metal_kernels import (
    own_qmv,
    rd_sweep,
    residual_rms_norm_rht,
    rht32,
    rht_qmm,
    rht_qmv,
    rms_norm_rht,
    swiglu_rht,
    turbo_attend,
)
from bitbudget.metal_kernels.attention_cases import attention_case
from bitbudget.metal_kernels.launch import Launch
from bitbudget.metal_kernels.own_matmul import own_case
from bitbudget.metal_kernels.products import Order
from tests.metal_emulator.emulate import Traffic, emulate

pytestmark = pytest.mark.usefixtures("emulator")

ROWS, WIDTH = 3, 512
X = mx.zeros((ROWS, WIDTH), mx.bfloat16)


def traffic(launch: Launch) -> Traffic:
    return emulate(launch, count=True).traffic


def test_the_stand_alone_transform_reads_and_writes_each_element_once() -> None:
    found = traffic(rht32.launch(X, mx.ones((WIDTH,))))
    assert found.read[0] == found.written[0] == X.nbytes
    assert found.read[1] == ROWS * WIDTH * 4


@pytest.mark.parametrize("width", [32, 512, 4096, 4128])
def test_a_fused_norm_moves_what_addition_and_norm_must(width: int) -> None:
    x, weight = mx.zeros((ROWS, width), mx.bfloat16), mx.ones((width,), mx.bfloat16)
    plain = traffic(rms_norm_rht.launch(x, weight, eps=1e-6))
    assert plain.read == (x.nbytes, ROWS * weight.nbytes, plain.read[2])
    assert plain.written == (x.nbytes,)
    added = traffic(residual_rms_norm_rht.launch(x, x, weight, eps=1e-6))
    assert added.read[:3] == (x.nbytes, x.nbytes, ROWS * weight.nbytes)
    assert added.written == (x.nbytes, x.nbytes)


def test_a_fused_activation_moves_what_the_activation_must() -> None:
    found = traffic(swiglu_rht.launch(X, X))
    assert found.read == (X.nbytes, X.nbytes)
    assert found.written == (X.nbytes,)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_product_with_a_transform_moves_no_byte_more_than_without(bits: int) -> None:
    weight = mx.random.normal((13, WIDTH)).astype(mx.bfloat16)
    packed = mx.quantize(weight, group_size=64, bits=bits)
    with_, without = (
        traffic(rht_qmv.launch(X[:1], *packed, bits=bits, group_size=64, rotate=rotate))
        for rotate in (True, False)
    )
    assert with_ == without
    assert with_.read[1] == packed[0].nbytes
    assert with_.written == (13 * 2,)


@pytest.mark.parametrize(("bits", "group"), [(3, 16), (4, 16), (5, 32)])
@pytest.mark.parametrize("width", [512, 608])
def test_a_two_level_product_reads_the_bytes_of_its_format_once(
    bits: int, group: int, width: int
) -> None:
    shape = {"rows": 1, "outputs": 13, "width": width}
    case = own_case("two", mx.bfloat16, bits, group, **shape)
    x, *arrays = case.arguments
    found, without = (
        traffic(own_qmv.launch(x, *arrays, **case.options | {"rotate": rotate}))
        for rotate in (True, False)
    )
    assert found.read[1:] == tuple(array.nbytes for array in arrays)
    assert found == without
    assert sum(found.read[1:]) * 8 == 13 * (width * (bits + 8 / group) + -(-width // 256) * 32)


@pytest.mark.parametrize(("layout", "bits"), [("zero", 4), ("sym", 8)])
def test_zero_points_cost_no_more_than_biases(layout: str, bits: int) -> None:
    case = own_case(layout, mx.bfloat16, bits, 64, rows=1, outputs=13, width=WIDTH)
    found = traffic(own_qmv.launch(*case.arguments, **case.options))
    packed = mx.quantize(mx.zeros((13, WIDTH), mx.bfloat16), group_size=64, bits=bits)
    affine = traffic(rht_qmv.launch(X[:1], *packed, bits=bits, group_size=64))
    assert found.read[:3] == affine.read[:3]
    assert found.read[3] == (affine.read[3] // 2 if layout == "zero" else 0)


def test_the_tiled_product_reads_the_weights_once_per_tile_of_rows() -> None:
    weight = mx.random.normal((64, 128)).astype(mx.bfloat16)
    packed = mx.quantize(weight, group_size=64, bits=4)
    x = mx.zeros((64, 128), mx.bfloat16)
    found, morton = (
        traffic(rht_qmm.launch(x, *packed, bits=4, group_size=64, order=order)) for order in Order
    )
    assert found.read[0] == 2 * x.nbytes
    assert found.read[1] == 2 * packed[0].nbytes
    assert found == morton


@pytest.mark.parametrize("width", [96, 256])
def test_the_sweep_reads_every_weight_once(width: int) -> None:
    weight = mx.random.normal((5, width)).astype(mx.bfloat16)
    found = traffic(rd_sweep.launch(weight))
    assert found.read == (weight.nbytes,)
    assert found.written == (5 * 22 * 4,)


@pytest.mark.parametrize("bits", [(4, 4), (3, 2), (2, 3)])
@pytest.mark.parametrize("widths", [(64, 64), (96, 128), (256, 32)])
@pytest.mark.parametrize(("queries", "heads"), [(1, (4, 2)), (2, (2, 1))])
def test_attention_reads_codes_and_scales_of_the_context_once(
    bits: tuple[int, int], widths: tuple[int, int], queries: int, heads: tuple[int, int]
) -> None:
    context, splits = 300, 2
    case = attention_case(
        mx.bfloat16, bits, widths, heads=heads, queries=queries, context=context, capacity=512
    )
    found = traffic(turbo_attend.launch(*case.arguments, **case.options))
    tokens = heads[1] * context
    codes = [tokens * width * b // 8 for width, b in zip(widths, bits, strict=True)]
    asked = splits * case.arguments[0].nbytes
    books = splits * heads[1] * 2 * 16 * 4
    assert found.read[:6] == (asked, codes[0], tokens * 2, codes[1], tokens * 2, books)
    rows = splits * heads[0] * queries * 4
    assert found.written == (rows * widths[1], rows, rows)


def test_more_query_rows_than_registers_hold_read_the_codes_again() -> None:
    case = attention_case(mx.float32, (4, 4), (64, 64), heads=(10, 2), context=50)
    found = traffic(turbo_attend.launch(*case.arguments, **case.options))
    assert found.read[1] == 2 * 2 * 50 * 64 * 4 // 8
