"""What each expert of a stack reads, row by row, and how much each of its outputs counts."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_lm.models.switch_layers import SwitchGLU

from bitbudget.workers.sequential.experts import ExpertRows, Routing, Stacks, is_stack, routing

_WIDTH, _INNER, _EXPERTS, _CHOSEN = 8, 16, 4, 2


def _stack(seed: int) -> SwitchGLU:
    mx.random.seed(seed)
    return SwitchGLU(_WIDTH, _INNER, _EXPERTS)


def _experts(tokens: int, seed: int) -> mx.array:
    rng = np.random.default_rng(seed)
    return mx.array(np.array([rng.permutation(_EXPERTS)[:_CHOSEN] for _ in range(tokens)]))


@pytest.mark.parametrize("tokens", [5, 50], ids=["as they come", "sorted by expert"])
@pytest.mark.parametrize("name", ["up_proj", "down_proj"])
def test_rows_are_of_the_same_token_and_expert_in_both(tokens: int, name: str) -> None:
    stacks, experts = Stacks(_stack(0), _stack(1)), _experts(tokens, 2)
    x, y = mx.random.normal((tokens, _WIDTH)), mx.random.normal((tokens, _WIDTH))
    weights = mx.random.uniform(shape=(tokens, _CHOSEN))
    original, coded, chosen = stacks.rows(name, x, Routing(y, experts, weights))
    assert len(original) == len(coded) == tokens * _CHOSEN
    wanted = {}
    for t in range(tokens):
        for k in range(_CHOSEN):
            expert = experts[t, k].item()
            pair = []
            for stack, inputs in ((stacks.original, x), (stacks.coded, y)):
                up, gate = (stack[m].weight[expert] @ inputs[t] for m in ("up_proj", "gate_proj"))
                read = inputs[t] if name == "up_proj" else nn.silu(gate) * up
                pair.append(np.array(weights[t, k] * read))
            wanted[tuple(np.round(pair[0], 4))] = (expert, pair[1])
    for row, other, expert in zip(np.array(original), np.array(coded), chosen, strict=True):
        near = min(wanted, key=lambda key: np.abs(np.array(key) - row).max())
        np.testing.assert_allclose(near, row, atol=1e-3)
        assert wanted[near][0] == expert
        np.testing.assert_allclose(wanted[near][1], other, atol=1e-5)


def test_an_output_counts_as_much_as_its_gate() -> None:
    stack, experts = _stack(3), _experts(12, 4)
    x = mx.random.normal((12, _WIDTH))
    gates = mx.random.uniform(shape=(12, _CHOSEN))

    def layer() -> mx.array:
        return x + (stack(x, experts) * gates[..., None]).sum(-2)

    found = routing(stack, layer, seed=0)
    np.testing.assert_allclose(np.array(found.weights), np.array(gates), rtol=1e-4)
    assert np.array_equal(np.array(found.experts), np.array(experts))
    assert np.array_equal(np.array(found.inputs), np.array(x))
    assert type(stack) is SwitchGLU
    assert is_stack(stack)


def test_an_expert_that_saw_nothing_has_the_moments_of_all() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((2, 40, 6)).astype(np.float32)
    experts = np.repeat([0, 2], 20)
    rows = ExpertRows(np.empty_like(x), np.empty_like(y))
    rows.add(0, mx.array(x[::2]), mx.array(y[::2]), experts[::2])
    rows.add(1, mx.array(x[1::2]), mx.array(y[1::2]), experts[1::2])
    found = list(rows.moments(3))
    few = 0.25 * 6 / 2
    for half in (0, 1):
        mean = y[half::2].T @ y[half::2] / 20
        drift = (x - y)[half::2].T @ y[half::2] / 20
        own = y[half:20:2].T @ y[half:20:2]
        np.testing.assert_allclose(found[1][half].own, few * mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1][half].drift, few * drift, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[0][half].own, own + few * mean, rtol=1e-4, atol=1e-5)
