"""The least squares weight for inputs that are no longer the original's."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from bitbudget.workers.sequential.corrected_target import (
    Correction,
    Halves,
    Inputs,
    Moments,
    Tokens,
)


def _inputs(x: np.ndarray, y: np.ndarray) -> tuple[Inputs, Inputs]:
    halves = Halves(x.shape[-1])
    for part in np.array_split(np.arange(len(x)), 3):
        halves.add(mx.array(x[part]), mx.array(y[part]))
    return halves.finish()


def test_equal_inputs_change_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 8), np.float32)
    weight = rng.standard_normal((5, 8), np.float32)
    assert np.array_equal(Correction.of(*_inputs(x, x)).shifted(weight), weight)


def test_a_linear_change_of_the_inputs_is_undone() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2000, 8), np.float32)
    y = x @ (np.eye(8) + 0.2 * rng.standard_normal((8, 8))).astype(np.float32)
    weight = rng.standard_normal((5, 8), np.float32)
    found = Correction.of(*_inputs(x, y)).shifted(weight)
    before = np.square(x @ weight.T - y @ weight.T).mean()
    after = np.square(x @ weight.T - y @ found.T).mean()
    assert after < 0.01 * before


def test_a_constant_input_and_one_that_never_came_give_a_finite_weight() -> None:
    weight = np.ones((3, 4), np.float32)
    constant = np.ones((50, 4), np.float32)
    assert np.isfinite(Correction.of(*_inputs(constant, 0.5 * constant)).shifted(weight)).all()
    zeros = np.zeros((50, 4), np.float32)
    assert np.array_equal(Correction.of(*_inputs(zeros, zeros)).shifted(weight), weight)


def test_what_only_fits_noise_is_not_applied() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((60, 50), np.float32)
    y = x + 0.3 * rng.standard_normal((60, 50), np.float32)
    weight = rng.standard_normal((7, 50), np.float32)
    fresh = rng.standard_normal((4000, 50), np.float32)
    noisy = fresh + 0.3 * rng.standard_normal((4000, 50), np.float32)
    first, second = _inputs(x, y)
    everything = weight + (first + second).fitted()(weight)
    lost = [
        np.square(fresh @ weight.T - noisy @ w.T).mean()
        for w in (everything, Correction.of(first, second).shifted(weight), weight)
    ]
    assert lost[1] < lost[0]
    assert lost[1] < 1.05 * lost[2]


def test_a_single_sequence_is_halved_along_its_tokens() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 1, 40, 6)).astype(np.float32)
    halves = Halves(6)
    halves.add(mx.array(x), mx.array(y))
    first, second = halves.finish()
    np.testing.assert_allclose(first.own, y[0, :20].T @ y[0, :20], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(second.own, y[0, 20:].T @ y[0, 20:], rtol=1e-4, atol=1e-4)


def test_few_tokens_give_the_change_that_their_moments_give() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((60, 48), np.float32)
    y = x + 0.3 * rng.standard_normal((60, 48), np.float32)
    weight = rng.standard_normal((7, 48), np.float32)
    few = [half for half in _inputs(x, y) if isinstance(half, Tokens)]
    many = [Moments(half.own, half.drift.T @ half.coded) for half in few]
    for tokens, moments in zip(few, many, strict=True):
        change = moments.fitted()(weight)
        np.testing.assert_allclose(tokens.fitted()(weight), change, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            tokens.useful(weight, change), moments.useful(weight, change), rtol=1e-4
        )
    np.testing.assert_allclose(
        Correction.of(*few).shifted(weight),
        Correction.of(*many).shifted(weight),
        rtol=1e-3,
        atol=1e-3,
    )


def test_as_many_tokens_as_inputs_are_summed() -> None:
    x = np.ones((96, 48), np.float32)
    assert all(isinstance(half, Moments) for half in _inputs(x, x))
