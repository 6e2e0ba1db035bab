"""Every way we know to break a kernel is caught: by the machine, the lane orders or the result."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.metal_kernels import (
    own_qmm,
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
from bitbudget.metal_kernels.kernel import relative_error
from bitbudget.metal_kernels.launch import Launch
from bitbudget.metal_kernels.own_matmul import own_case
from bitbudget.metal_kernels.products import Order
from tests.metal_emulator.emulate import ORDERS, emulate, to_numpy
from tests.metal_emulator.machine import EmulatorError
from tests.metal_emulator.toolchain import CompileError
from tests.metal_kernels.mutants import BARRIER, mutate

pytestmark = pytest.mark.usefixtures("emulator")

X = mx.random.normal((3, 256), key=mx.random.key(1))
ONES = mx.ones((256,))
NORM = rms_norm_rht.launch(X, ONES, eps=1e-5)
SWIGLU = swiglu_rht.launch(X, X)
PACKED = mx.quantize(mx.random.normal((37, 256), key=mx.random.key(2)), group_size=64, bits=4)
QMV = rht_qmv.launch(X, *PACKED, bits=4, group_size=64)
TWO_CASE = own_case("two", mx.float32, 4, 32, rows=2, outputs=11, width=544)
TWO = own_qmv.launch(*TWO_CASE.arguments, **TWO_CASE.options)
ZERO_CASE = own_case("zero", mx.float32, 4, 32, rows=1, outputs=6, width=96)
ZERO = own_qmv.launch(*ZERO_CASE.arguments, **ZERO_CASE.options)
SYM_CASE = own_case("sym", mx.float32, 8, 32, rows=1, outputs=6, width=96)
SYM = own_qmv.launch(*SYM_CASE.arguments, **SYM_CASE.options)
TWO_TILE_CASE = own_case("two", mx.float32, 5, 32, rows=33, outputs=11, width=96)
TWO_TILE = own_qmm.launch(*TWO_TILE_CASE.arguments, **TWO_TILE_CASE.options)
MANY = mx.random.normal((34, 256), key=mx.random.key(3))
QMM = rht_qmm.launch(MANY, *PACKED, bits=4, group_size=64)
MORTON_CASE = own_case("zero", mx.float32, 4, 32, rows=70, outputs=130, width=32)
MORTON = own_qmm.launch(*MORTON_CASE.arguments, **MORTON_CASE.options, order=Order.MORTON)
NARROW = X.astype(mx.bfloat16)
ADDED = (NARROW, mx.flip(NARROW, axis=1), ONES.astype(mx.bfloat16))
RESIDUAL = residual_rms_norm_rht.launch(*ADDED, eps=1e-5)
SIGNS = mx.where(mx.arange(256) % 3 == 0, -0.25, 0.25)
RHT = rht32.launch(X, SIGNS)
SWEEP = rd_sweep.launch(NARROW)
ASKED = attention_case(
    mx.bfloat16, (4, 3), (64, 96), heads=(10, 2), queries=2, context=290, capacity=520, causal=True
)
ATTEND = turbo_attend.launch(*ASKED.arguments, **ASKED.options)
EXPECTED = {
    ATTEND.source.name: turbo_attend.reference(*ASKED.arguments, **ASKED.options),
    RESIDUAL.source.name: residual_rms_norm_rht.reference(*ADDED, eps=1e-5),
    RHT.source.name: rht32.reference(X, SIGNS),
    SWEEP.source.name: rd_sweep.reference(NARROW),
    NORM.source.name: rms_norm_rht.reference(X, ONES, eps=1e-5),
    SWIGLU.source.name: swiglu_rht.reference(X, X),
    QMV.source.name: rht_qmv.reference(X, *PACKED, bits=4, group_size=64),
    QMM.source.name: rht_qmv.reference(MANY, *PACKED, bits=4, group_size=64),
    TWO.source.name: own_qmv.reference(*TWO_CASE.arguments, **TWO_CASE.options),
    ZERO.source.name: own_qmv.reference(*ZERO_CASE.arguments, **ZERO_CASE.options),
    SYM.source.name: own_qmv.reference(*SYM_CASE.arguments, **SYM_CASE.options),
    MORTON.source.name: own_qmv.reference(*MORTON_CASE.arguments, **MORTON_CASE.options),
    TWO_TILE.source.name: own_qmv.reference(*TWO_TILE_CASE.arguments, **TWO_TILE_CASE.options),
}

BUGS = {
    "first barrier missing": mutate(NORM, BARRIER, ""),
    "second barrier missing": mutate(NORM, BARRIER, "", 1),
    "partial sums not cleared": mutate(NORM, "partial[lane] = 0;", ""),
    "barrier in one SIMD group only": mutate(NORM, BARRIER, f"if (simdgroup == 0) {BARRIER}"),
    "return before a barrier": mutate(
        NORM, "squares = simd_sum", "if (index > 40) return; squares = simd_sum"
    ),
    "shuffle in a divergent branch": mutate(
        SWIGLU,
        "const float other = simd_shuffle_xor(x[i], mask);",
        "float other = 0; if (lane < 16) other = simd_shuffle_xor(x[i], mask);"
        " else other = simd_shuffle_xor(x[i], mask);",
    ),
    "read past the end": mutate(SWIGLU, "up[first + i]", "up[first + i + 2048]"),
    "write past the end": mutate(SWIGLU, "out[first + i] =", "out[first + i + 4] ="),
    "write before the start": mutate(SWIGLU, "out[first + i] =", "out[first + i - 4] ="),
    "too much threadgroup memory": mutate(NORM, "partial[32]", "partial[8448]"),
    "an output is never written": mutate(SWIGLU, "out[first + i] =", "if (first) out[first + i] ="),
    "wrong sign in a butterfly": mutate(SWIGLU, "other - x[i]", "x[i] - other"),
    "a stage is missing": mutate(SWIGLU, "mask < 32 / VALUES", "mask < 16 / VALUES"),
    "wrong nibble order": mutate(QMV, "const int at = i * BITS", "const int at = (7 - i) * BITS"),
    "bias forgotten": mutate(QMV, "group.y * sum", "0.0f * sum"),
    "sum taken before the transform": mutate(QMV, "sum += values[i];", "sum += row_of_x[k + i];"),
    "wrong group": mutate(QMV, "k / GROUP;", "k / 32;"),
    "last rows not guarded": mutate(QMV, "if (row >= outputs)", "if (false)"),
    "D of another span": mutate(
        TWO, "float step = 0, low = 0;", "k ^= 256; float step = 0, low = 0;"
    ),
    "nibbles of a byte exchanged": mutate(TWO, "small & 15u", "small >> 4 & 15u"),
    "minimum added": mutate(TWO, "-(low *", "(low *"),
    "byte of the lane before": mutate(TWO, "simd_shuffle(small, group_lane)", "small"),
    "D read by one lane for all": mutate(TWO, "simd_shuffle(step, span_lane)", "step"),
    "spans not rounded up": mutate(TWO, "(width + 255) / 256", "width / 256", 1),
    "zero points of the next row": mutate(ZERO, "(groups + 1) / 2", "groups / 2"),
    "zero point in the other half": mutate(ZERO, "group % 2 * 4", "(1 - group % 2) * 4"),
    "middle of seven bits": mutate(SYM, "128.0f", "127.0f"),
    "decoder of the tile": mutate(
        TWO_TILE, "scales[row * (width / GROUP) + k / GROUP]", "scales[row]"
    ),
    "tiles of another threadgroup": mutate(MORTON, "index % 2 * bit", "index % 2"),
    "tiles beyond the last": mutate(
        MORTON, "tile.x * 32 >= outputs || tile.y * 32 >= rows", "true"
    ),
    "the longer axis cut off": mutate(MORTON, "bit < across || bit < down", "bit < down"),
    "tile read before it is written": mutate(QMM, BARRIER, ""),
    "tile overwritten while it is read": mutate(QMM, BARRIER, "", 1),
    "transposed tile": mutate(QMM, "STRIDE, ulong2(0, 0), true", "STRIDE, ulong2(0, 0), false"),
    "unknown attribute": mutate(SWIGLU, "thread_index_in_simdgroup", "simd_lane"),
    "pointer into another address space": mutate(
        NORM, "float held", "threadgroup float* wrong = x; float held"
    ),
    "write to an input": mutate(SWIGLU, "float values[4];", "float values[4]; gate[0] = 0;"),
    "residual forgotten": mutate(
        RESIDUAL, "+ static_cast<float>(residual[first + i])", "+ 0 * residual[0]"
    ),
    "sum is never written": mutate(RESIDUAL, "sum[first + i] = added;", ""),
    "norm of the sum before it is rounded": mutate(
        RESIDUAL,
        "held[c][i] = static_cast<float>(added);",
        "held[c][i] += static_cast<float>(residual[first + i]);",
    ),
    "signs of another element": mutate(RHT, "diagonal[", "diagonal[1 ^ "),
    "error of the scale before it is stored": mutate(
        SWEEP, "stored_scale * code + stored_bias", "scale * code + bias"
    ),
    "a format's widest group is left out": mutate(
        SWEEP, "mask * 8 <= WIDEST_GROUP", "mask * 8 < WIDEST_GROUP"
    ),
    "extremes of half the lanes": mutate(
        SWEEP, "ushort mask = 1; mask < 4", "ushort mask = 2; mask < 4"
    ),
    "one lane's share of the sum": mutate(SWEEP, "simd_sum(sums[f])", "sums[f]"),
    "codes above the last level": mutate(SWEEP, "0.0f, levels)", "0.0f, levels + 1)"),
    "scores of a token in another lane": mutate(ATTEND, "lane % KEY_TOKENS * KEY_LANES", "0"),
    "scores of the first tokens alone": mutate(
        ATTEND, "lane / KEY_TOKENS == step", "lane / KEY_TOKENS == 0"
    ),
    "a stage of the scores' sum is missing": mutate(
        ATTEND, "mask < KEY_LANES", "mask < KEY_LANES / 2"
    ),
    "values read with the codebook of keys": mutate(ATTEND, "16 + code_of", "code_of"),
    "scales of keys forgotten": mutate(ATTEND, "scores[r] * key_scale", "scores[r]"),
    "scales of values forgotten": mutate(ATTEND, "weight * value_scale", "weight"),
    "scales of values in the sum of weights": mutate(
        ATTEND, "simd_sum(weight)", "simd_sum(weight * value_scale)"
    ),
    "factor forgotten": mutate(ATTEND, "* factor", "+ 0.0f * factor"),
    "sums not rescaled when the largest score grows": mutate(
        ATTEND, "masses[r] * shrink", "masses[r]"
    ),
    "outputs not rescaled when the largest score grows": mutate(
        ATTEND, "totals[r][i] *= shrink", "totals[r][i] *= 1"
    ),
    "the last token forgotten": mutate(
        ATTEND, "(split + 1) * length, tokens", "(split + 1) * length, tokens - 1"
    ),
    "a split that takes a token of the next": mutate(
        ATTEND, "(split + 1) * length, tokens", "(split + 1) * length + 1, tokens"
    ),
    "the query itself is hidden": mutate(ATTEND, "token <= last", "token < last"),
    "one mask for all queries": mutate(ATTEND, "(first_row + r) % QUERIES", "0"),
    "another head's codes": mutate(ATTEND, "(head * capacity + token)", "(token)"),
    "lanes beyond the width": mutate(
        ATTEND, "lane < VALUE_LANES && unit < VALUE_UNITS", "lane < VALUE_LANES"
    ),
    "rows beyond the last": mutate(ATTEND, "first_row + r < rows;", "true;"),
    "shares of a token in another lane": mutate(ATTEND, "[r], within)", "[r], lane)"),
    "outputs of some tokens only": mutate(
        ATTEND, "mask = VALUE_LANES; mask < 32", "mask = VALUE_LANES; mask < 16"
    ),
    "outputs of another split": mutate(ATTEND, "(head * splits + split)", "(head + split)"),
    "double precision": mutate(SWIGLU, "float values[4];", "double values[4];"),
}


def symptom(launch: Launch) -> str:
    """Return how the machine, the orders or the result give a bug away; nothing if they do not."""
    results = []
    for order in ORDERS:
        try:
            results.append(emulate(launch, order=order).outputs)
        except (EmulatorError, CompileError) as caught:
            return str(caught).splitlines()[0]
    for outputs in zip(*results, strict=True):
        arrays = [to_numpy(output) for output in outputs]
        if any(not np.array_equal(arrays[0], other, equal_nan=True) for other in arrays[1:]):
            return "the order of lanes changes the result"
    error = relative_error(results[0], EXPECTED[launch.source.name])
    return "" if error < 1e-5 else f"wrong by {error}"


@pytest.mark.parametrize(
    "launch",
    [NORM, SWIGLU, QMV, QMM, TWO, ZERO, SYM, TWO_TILE, MORTON, RESIDUAL, RHT, SWEEP, ATTEND],
    ids=lambda x: x.source.name,
)
def test_the_kernels_themselves_have_no_symptom(launch: Launch) -> None:
    assert not symptom(launch)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str) -> None:
    assert symptom(BUGS[bug])


def test_divergence_names_the_lines() -> None:
    with pytest.raises(EmulatorError, match=r"line \d+"):
        emulate(BUGS["shuffle in a divergent branch"])


def test_a_fault_names_the_buffer_and_the_thread() -> None:
    with pytest.raises(EmulatorError, match=r"thread \d+: buffer 1 \+\d+ bytes"):
        emulate(mutate(SWIGLU, "up[first + i]", "up[first + i + 768]"))
