"""Attention over packed codes against the definition, in float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.metal_kernels import turbo_attend
from bitbudget.metal_kernels.attention_cases import attention_case
from bitbudget.metal_kernels.blocks import KernelInputError
from bitbudget.metal_kernels.kernel import Case
from bitbudget.metal_kernels.turbo_attend import joined
from tests.metal_emulator.emulate import emulate, to_numpy
from tests.metal_emulator.exact import to_float64, unpacked
from tests.metal_emulator.machine import Array

pytestmark = pytest.mark.usefixtures("emulator")


def vectors(codes: mx.array, scales: mx.array, book: mx.array, bits: int) -> Array:
    """Return scale x codebook entry, (batch, heads, tokens, width), in float64."""
    words = to_numpy(codes)
    rows = unpacked(words.reshape(-1, words.shape[-1]), bits)
    entries: Array = to_float64(book)[rows].reshape(*words.shape[:-1], -1)
    return entries * to_float64(scales)


def exact(case: Case) -> Array:
    """Return softmax(scale Q K^T) V over the first `context` tokens."""
    queries, key_codes, key_scales, value_codes, value_scales, books, context = case.arguments
    options, count, tokens = case.options, queries.shape[2], context.item()
    keys = vectors(key_codes, key_scales, books[0], options["key_bits"])[:, :, :tokens]
    values = vectors(value_codes, value_scales, books[1], options["value_bits"])[:, :, :tokens]
    grouped = queries.shape[1] // keys.shape[1]
    keys, values = (np.repeat(x, grouped, axis=1) for x in (keys, values))
    scores = to_float64(queries) @ keys.swapaxes(-1, -2) * options["scale"]
    if options["causal"]:
        last = np.arange(tokens - count, tokens)[:, None]
        scores = np.where(np.arange(tokens) <= last, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Array = weights / weights.sum(axis=-1, keepdims=True) @ values
    return result


def attend(case: Case, flags: tuple[str, ...] = ()) -> Array:
    launch = turbo_attend.launch(*case.arguments, **case.options)
    queries = case.arguments[0]
    out = joined(*emulate(launch, flags=flags).outputs)
    return to_float64(out.reshape(*queries.shape[:-1], out.shape[-1]))


def assert_exact(case: Case, flags: tuple[str, ...] = ()) -> None:
    expected = exact(case)
    assert np.abs(attend(case, flags) - expected).max() < 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [(4, 4), (4, 3), (3, 2), (2, 4)])
@pytest.mark.parametrize("widths", [(64, 64), (128, 128), (96, 32), (192, 512)])
def test_formats_and_widths_of_keys_and_values(
    bits: tuple[int, int], widths: tuple[int, int]
) -> None:
    assert_exact(attention_case(mx.float32, bits, widths, context=77, capacity=256))


@pytest.mark.parametrize("context", [1, 31, 32, 33, 255, 256, 257, 511, 512, 700])
@pytest.mark.parametrize("causal", [False, True])
def test_contexts_around_tokens_of_a_step_and_of_a_split(context: int, *, causal: bool) -> None:
    queries = 1 if context == 1 else 3
    assert_exact(
        attention_case(
            mx.float32,
            (3, 4),
            (64, 64),
            context=context,
            capacity=768,
            queries=queries,
            causal=causal,
        )
    )


@pytest.mark.parametrize("heads", [(1, 1), (3, 3), (4, 1), (5, 1), (14, 2), (32, 4)])
@pytest.mark.parametrize("queries", [1, 2, 8])
@pytest.mark.parametrize("batch", [1, 2])
def test_heads_that_share_keys(heads: tuple[int, int], queries: int, batch: int) -> None:
    assert_exact(
        attention_case(
            mx.bfloat16,
            (4, 2),
            (32, 64),
            heads=heads,
            queries=queries,
            batch=batch,
            context=45,
            causal=True,
        )
    )


@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_any_order_of_summation(reduction: int) -> None:
    case = attention_case(mx.float32, (4, 4), (128, 128), context=300, capacity=512)
    assert_exact(case, (f"-DEMU_REDUCTION={reduction}",))


def test_large_scores_neither_overflow_nor_forget() -> None:
    case = attention_case(mx.float32, (4, 4), (64, 64), context=290, capacity=512)
    loud = Case("loud", case.arguments, {**case.options, "scale": 40.0})
    assert_exact(loud)


def test_what_is_behind_the_context_is_not_read() -> None:
    case = attention_case(mx.float32, (4, 3), (64, 64), context=290, capacity=512)
    before = attend(case)
    asked, *stored, books, context = case.arguments
    scribbled = [mx.array(np.array(array)) for array in stored]
    for array in scribbled:
        array[:, :, 290:] = 1 if array.dtype == mx.uint32 else float("nan")
    after = attend(Case("scribbled", (asked, *scribbled, books, context), case.options))
    assert np.array_equal(before, after)


def test_views_give_what_their_copies_give() -> None:
    case = attention_case(mx.float32, (4, 4), (64, 64), heads=(4, 2), capacity=300)
    halves = tuple(array[:, :, :100] for array in case.arguments[1:5])
    copies = tuple(mx.array(np.array(array)) for array in halves)
    left, right = (
        attend(Case("", (case.arguments[0], *stored, *case.arguments[5:]), case.options))
        for stored in (halves, copies)
    )
    assert np.array_equal(left, right)


@pytest.mark.parametrize(
    ("position", "wrong", "named"),
    [
        (0, mx.zeros((1, 4, 1, 48)), "multiple of 32"),
        (1, mx.zeros((1, 2, 256, 6), mx.uint32), "key_codes"),
        (2, mx.zeros((1, 2, 256, 1)), "key_scales: found mlx.core.float32"),
        (3, mx.zeros((1, 2, 128, 8), mx.uint32), "value_codes"),
        (4, mx.zeros((1, 2, 255, 1), mx.float16), "value_scales"),
        (5, mx.zeros((2, 8)), "float32 \\(2, 16\\)"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(
    position: int, wrong: mx.array, named: str
) -> None:
    case = attention_case(mx.float32, (4, 4), (64, 64))
    arguments = [*case.arguments]
    arguments[position] = wrong
    with pytest.raises(KernelInputError, match=named):
        turbo_attend.launch(*arguments, **case.options)


def test_other_bits_are_refused() -> None:
    case = attention_case(mx.float32, (4, 4), (64, 64))
    with pytest.raises(KernelInputError, match="8 bits for keys"):
        turbo_attend.launch(*case.arguments, **{**case.options, "key_bits": 8})
