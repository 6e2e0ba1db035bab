"""Prefill and decode, timed through mlx-lm's own generation loop."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
from mlx import nn

__all__ = ["Speed", "measure_speed"]

TRIALS: Final = 3


@dataclass(frozen=True)
class Speed:
    """Medians over the trials, with every trial's decode speed."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    time_to_first_token_seconds: float
    decode_trials: tuple[float, ...]
    cache: list[Any]


def _once(
    model: nn.Module, prompt: mx.array, generate_tokens: int
) -> tuple[float, float, list[Any]]:
    """Return seconds to the first token, seconds for the others, and the cache."""
    generation = importlib.import_module("mlx_lm.generate")
    caching = importlib.import_module("mlx_lm.models.cache")
    cache: list[Any] = caching.make_prompt_cache(model)
    start = time.perf_counter()
    tokens = generation.generate_step(prompt, model, max_tokens=generate_tokens, prompt_cache=cache)
    next(tokens)
    first = time.perf_counter()
    for _ in tokens:
        pass
    return first - start, time.perf_counter() - first, cache


def measure_speed(
    model: nn.Module,
    vocabulary_size: int,
    prompt_tokens: int,
    generate_tokens: int,
    progress: Callable[[int, int], None],
) -> Speed:
    """Time `prompt_tokens` random tokens and `generate_tokens` greedy ones, after a warm-up."""
    key = mx.random.key(0)
    prompt = mx.random.randint(0, vocabulary_size, (prompt_tokens,), key=key)
    _once(model, prompt[: min(prompt_tokens, 16)], 2)
    firsts, rests = [], []
    cache: list[Any] = []
    for trial in range(TRIALS):
        first, rest, cache = _once(model, prompt, generate_tokens)
        firsts.append(first)
        rests.append(rest)
        progress(trial + 1, TRIALS)
    decode = tuple((generate_tokens - 1) / rest for rest in rests)
    return Speed(
        prefill_tokens_per_second=prompt_tokens / statistics.median(firsts),
        decode_tokens_per_second=statistics.median(decode),
        time_to_first_token_seconds=statistics.median(firsts),
        decode_trials=decode,
        cache=cache,
    )
