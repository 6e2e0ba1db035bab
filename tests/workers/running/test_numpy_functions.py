"""Attention and SwiGLU by NumPy: mlx-lm's values and gradients, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import activations, base
from mlx_lm.models import llama as llama_module
from mlx_lm.models import switch_layers as switch_layers_module

from bitbudget.workers.running.numpy_functions import as_stock, by_numpy, softmax

llama: Any = llama_module
switch_layers: Any = switch_layers_module
attention: Callable[..., mx.array] = base.scaled_dot_product_attention

HEADS = ((2, 8, 40, 16), (2, 2, 40, 16))
"""Queries and keys of a prompt; values are as wide as keys."""
NEXT = ((3, 6, 1, 8), (3, 6, 77, 8))
"""The same of one token after others."""

pytestmark = pytest.mark.skipif(
    mx.default_device() == mx.Device(mx.gpu), reason="MLX computes on a GPU here"
)


def _normal(*shape: int, seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def _masks(queries: int, keys: int) -> dict[str, mx.array | str | None]:
    seen = np.random.default_rng(5).random((queries, keys)) > 0.3
    seen[:, 0] = True
    return {
        "none": None,
        "causal": "causal",
        "seen": mx.array(seen),
        "added": _normal(1, 1, queries, keys, seed=6),
    }


def _values_and_gradients(
    function: Callable[..., mx.array], arrays: list[mx.array]
) -> list[np.ndarray]:
    output = function(*arrays)
    cotangent = _normal(*output.shape, seed=9)
    values, gradients = mx.vjp(function, arrays, [cotangent])
    return [np.array(array) for array in (*values, *gradients)]


@pytest.mark.parametrize("mask", ["none", "causal", "seen", "added"])
@pytest.mark.parametrize("shapes", [HEADS, NEXT], ids=["prompt", "next token"])
def test_attention_is_that_of_mlx(shapes: tuple[tuple[int, ...], ...], mask: str) -> None:
    queries, keys = shapes
    arrays = [_normal(*shape, seed=n) for n, shape in enumerate((queries, keys, keys))]
    given = _masks(queries[2], keys[2])[mask]
    attend = partial(attention, cache=None, scale=0.3, mask=given)
    expected = _values_and_gradients(attend, arrays)
    with by_numpy():
        assert base.scaled_dot_product_attention is not attention
        numpy = partial(llama.scaled_dot_product_attention, cache=None, scale=0.3, mask=given)
        found = _values_and_gradients(numpy, arrays)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=5e-6)


def test_swiglu_is_that_of_mlx_where_exponentials_overflow_too() -> None:
    gate, x = 40 * _normal(3, 50_000, seed=1), _normal(3, 50_000, seed=2)
    expected = _values_and_gradients(activations.swiglu, [gate, x])
    with by_numpy():
        found = _values_and_gradients(switch_layers.swiglu, [gate, x])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


def test_other_dtypes_are_left_to_mlx() -> None:
    gate = _normal(4, 8, seed=1).astype(mx.bfloat16)
    queries = _normal(*HEADS[0], seed=1).astype(mx.float16)
    with by_numpy():
        assert activations.swiglu(gate, gate).dtype == mx.bfloat16
        found = llama.scaled_dot_product_attention(
            queries, queries, queries, cache=None, scale=1.0, mask="causal"
        )
        assert found.dtype == mx.float16


def test_the_functions_are_in_place_only_inside() -> None:
    stock = (activations.swiglu, llama.scaled_dot_product_attention)
    with by_numpy(), by_numpy():
        assert llama.scaled_dot_product_attention is not stock[1]
        with as_stock():
            assert (activations.swiglu, llama.scaled_dot_product_attention) == stock
        assert llama.swiglu is not stock[0]
    with pytest.raises(KeyError), by_numpy():
        raise KeyError
    assert (activations.swiglu, llama.scaled_dot_product_attention) == stock


@pytest.mark.parametrize("shape", [(7,), (3, 1), (2, 5, 40_000), (2000, 33)])
def test_softmax_is_that_of_mlx_and_leaves_its_argument(shape: tuple[int, ...]) -> None:
    scores = 30 * _normal(*shape, seed=4)
    before = np.array(scores)
    found = np.array(softmax(scores))
    exact = np.array(mx.softmax(scores, axis=-1, precise=True))
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-37)
    np.testing.assert_array_equal(np.array(scores), before)


def test_no_gradient_passes_through_softmax() -> None:
    scores, weights = _normal(4, 50, seed=5), _normal(4, 50, seed=6)
    gradient = mx.grad(lambda x: (x * softmax(x) * weights).sum())(scores)
    np.testing.assert_allclose(np.array(gradient), np.array(softmax(scores) * weights), rtol=1e-5)
