"""Prefill and decode, timed through mlx-lm's own generation loop."""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
from mlx import nn

__all__ = ["TRIALS", "Speed", "measure_speed"]

TRIALS: Final = 3
_WARM_TOKENS: Final = 16
_FEWEST_GENERATED: Final = 2


@dataclass(frozen=True)
class Speed:
    """Medians over the trials, with every trial's decode speed and the tokens of each."""

    prompt_tokens: int
    generate_tokens: int
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
    *,
    most_seconds: float | None = None,
) -> Speed:
    """Time `prompt_tokens` random tokens and `generate_tokens` greedy ones, after a warm-up.

    With `most_seconds` there are fewer trials of fewer tokens where, by the warm-up's speed, all
    would take longer. The warm-up itself (16 tokens and 2) is never shortened. Where there is no
    time for it twice it is what is reported: of so slow a pass the first reading is little.
    """
    key = mx.random.key(0)
    prompt = mx.random.randint(0, vocabulary_size, (prompt_tokens,), key=key)
    warm = prompt[:_WARM_TOKENS]
    start = time.perf_counter()
    first, rest, cache = _once(model, warm, _FEWEST_GENERATED)
    firsts, rests = [first], [rest]
    plan = _Plan(warm.size, _FEWEST_GENERATED, 1)
    left = math.inf if most_seconds is None else most_seconds - (time.perf_counter() - start)
    if left < first + rest:
        progress(1, 1)
    else:
        plan = _Plan(prompt_tokens, generate_tokens, TRIALS).within(left, first / warm.size, rest)
        firsts, rests = [], []
    for trial in range(len(firsts), plan.trials):
        first, rest, cache = _once(model, prompt[: plan.prompt], plan.generate)
        firsts.append(first)
        rests.append(rest)
        progress(trial + 1, plan.trials)
    decode = tuple((plan.generate - 1) / rest for rest in rests)
    return Speed(
        prompt_tokens=plan.prompt,
        generate_tokens=plan.generate,
        prefill_tokens_per_second=plan.prompt / statistics.median(firsts),
        decode_tokens_per_second=statistics.median(decode),
        time_to_first_token_seconds=statistics.median(firsts),
        decode_trials=decode,
        cache=cache,
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """Tokens of a trial, and how many trials there are."""

    prompt: int
    generate: int
    trials: int

    def within(self, seconds: float, prompt_seconds: float, token_seconds: float) -> _Plan:
        """Return the plan that takes about `seconds`: first fewer trials, then fewer tokens."""
        one = self.prompt * prompt_seconds + self.generate * token_seconds
        trials = int(min(self.trials, seconds / one)) if one > 0 else self.trials
        if trials > 0:
            return _Plan(self.prompt, self.generate, trials)
        share = max(seconds, 0) / one
        least = min(self.prompt, _WARM_TOKENS)
        return _Plan(
            max(int(share * self.prompt), least),
            max(int(share * self.generate), _FEWEST_GENERATED),
            1,
        )
