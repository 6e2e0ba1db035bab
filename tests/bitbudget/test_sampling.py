"""Shared noise in stock mlx-lm: the target's text and law, and more tokens from the draft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_lm.generate import generate_step, speculative_generate_step
from mlx_lm.sample_utils import make_sampler

import bitbudget
from bitbudget.workers.running.float32 import load_float32

PROMPT = mx.array([0, 5, 9, 14, 77, 300])
TOKENS = 40


def quantized(folder: Path, bits: int) -> Any:
    model = load_float32(folder)
    nn.quantize(model, group_size=64, bits=bits)
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def target(sample_model: Path) -> Any:
    return quantized(sample_model, 8)


def drafted(target: Any, draft: Any, seed: int, **options: Any) -> tuple[list[int], float]:
    noise = bitbudget.shared_noise(seed=seed, prompt_tokens=PROMPT.size)
    steps = list(
        speculative_generate_step(
            PROMPT, target, draft, num_draft_tokens=3, max_tokens=TOKENS,
            **({"logits_processors": [noise]} | options),
        )
    )  # fmt: skip
    return [int(token) for token, *_ in steps], sum(bool(step[2]) for step in steps) / TOKENS


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_text_is_the_targets_whatever_the_draft(
    target: Any, sample_model: Path, bits: int
) -> None:
    draft = quantized(sample_model, bits)
    for seed in range(3):
        noise = bitbudget.shared_noise(seed=seed)
        plain = [
            int(token)
            for token, _ in generate_step(
                PROMPT,
                target,
                max_tokens=TOKENS,
                logits_processors=[noise],
            )
        ]
        text, share = drafted(target, draft, seed)
        assert text == plain
        assert share > {2: 0.25, 3: 0.4, 4: 0.5, 8: 0.6}[bits]  # 0.75 at most with three drafted


def test_stock_sampling_takes_fewer_tokens_from_the_draft(target: Any, sample_model: Path) -> None:
    draft = quantized(sample_model, 4)
    mx.random.seed(0)
    stock = [
        drafted(target, draft, 0, logits_processors=None, sampler=make_sampler(temp=1.0))[1]
        for _ in range(3)
    ]
    shared = [drafted(target, draft, seed)[1] for seed in range(3)]
    assert np.mean(stock) < 0.5 * np.mean(shared)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.7},
        {"top_p": 0.8},
        {"top_k": 5},
        {"min_p": 0.1},
        {"temperature": 1.3, "top_k": 8, "top_p": 0.9},
    ],
)
def test_the_law_is_that_of_mlx_lm_s_sampler(how: dict[str, Any]) -> None:
    logits = mx.array(np.random.default_rng(3).normal(size=(1, 16)).astype(np.float32) * 1.5)
    count = 6000
    noise = [bitbudget.shared_noise(seed=seed, **how) for seed in range(count)]
    ours = np.bincount([int(mx.argmax(n(PROMPT, logits))) for n in noise], minlength=16)
    sampler_how = {"temp" if key == "temperature" else key: value for key, value in how.items()}
    sampler = make_sampler(**({"temp": 1.0} | sampler_how))
    mx.random.seed(1)
    logprobs = mx.repeat(logits - mx.logsumexp(logits, axis=-1, keepdims=True), 60_000, axis=0)
    stock = np.bincount(np.array(sampler(logprobs)), minlength=16)
    seen = stock > 0
    assert not ours[~seen].any()
    expected = stock[seen] / stock.sum() * count
    statistic = (np.square(ours[seen] - expected) / expected).sum()
    assert statistic < seen.sum() + 5 * np.sqrt(2 * seen.sum())  # chi-square, 5 sigma


def test_positions_and_seeds_draw_other_noise_and_repeat() -> None:
    logits = mx.zeros((1, 64))
    one, two = bitbudget.shared_noise(seed=1), bitbudget.shared_noise(seed=2)
    draws = [np.array(noise(mx.zeros(n), logits)) for noise in (one, two) for n in (3, 4)]
    assert np.array_equal(draws[0], np.array(one(mx.zeros(3), logits)))
    assert all(not np.array_equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


def test_temperature_zero_leaves_logits_alone() -> None:
    logits = mx.random.normal((1, 8))
    assert bitbudget.shared_noise(0)(PROMPT, logits) is logits


@pytest.mark.parametrize(("temperature", "seed"), [(-1, 0), (1, -1), (1, 2**32)])
def test_numbers_out_of_range_are_refused(temperature: float, seed: int) -> None:
    with pytest.raises(ValueError, match="shared_noise"):
        bitbudget.shared_noise(temperature, seed)
