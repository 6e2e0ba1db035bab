"""The benchmark of one checkpoint: speed, memory, and the distance from the roofline."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx

from bitbudget import loading
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.workers.benchmark.kernels import benchmark_kernels
from bitbudget.workers.benchmark.machine import describe_device, measure_bandwidth
from bitbudget.workers.benchmark.prediction import predict
from bitbudget.workers.benchmark.roofline import bytes_per_token
from bitbudget.workers.benchmark.speed import TRIALS, measure_speed
from bitbudget.workers.files.language_part import language_config

__all__ = ["benchmark"]

_FEWEST_GENERATED = 2


def _check(prompt_tokens: int, generate_tokens: int) -> None:
    if prompt_tokens < 1 or generate_tokens < _FEWEST_GENERATED:
        raise InvalidRequestError(
            where="benchmark",
            found=f"{prompt_tokens} prompt and {generate_tokens} generated tokens",
            expected="at least 1 and 2",
            remedy="raise --prompt-tokens or --generate-tokens",
        )


def _peak_process_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _vocabulary(config: JsonObject) -> int:
    return int(language_config(config)["vocab_size"])


def benchmark(
    checkpoint_dir: Path | None,
    prompt_tokens: int = 512,
    generate_tokens: int = 128,
    *,
    kernels: bool = False,
    most_seconds_on_cpu: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> JsonObject:
    """Measure `checkpoint_dir` on this machine; the report of `benchmark --json`.

    `most_seconds_on_cpu` bounds generation where there is no GPU, with fewer trials and tokens:
    what was left out is in `not_measured`.

    With `kernels`, every Metal kernel is checked against its reference and timed against stock MLX
    operations; a checkpoint is then not needed. What this machine cannot measure is listed in
    `not_measured` with the reason.
    """
    _check(prompt_tokens, generate_tokens)
    device = describe_device()
    report: JsonObject = {
        "device": device,
        "bandwidth_bytes_per_second": measure_bandwidth(),
        "not_measured": _not_measured(device),
    }
    if checkpoint_dir is not None:
        most = None if device["backend"] == "metal" else most_seconds_on_cpu
        report |= _timed(
            checkpoint_dir,
            (prompt_tokens, generate_tokens),
            report["bandwidth_bytes_per_second"],
            progress or (lambda _done, _total: None),
            most,
        )
        report["not_measured"] += _left_out(report, prompt_tokens, generate_tokens)
    if kernels:
        report["kernels"] = benchmark_kernels()
    return report


def _timed(
    checkpoint_dir: Path,
    tokens: tuple[int, int],
    bandwidth: float,
    progress: Callable[[int, int], None],
    most_seconds: float | None,
) -> JsonObject:
    """Return the timed part of the report; `tokens` are those of the prompt and generated."""
    model, config = loading.load_model(checkpoint_dir)
    mx.reset_peak_memory()
    vocabulary = _vocabulary(config)
    speed = measure_speed(model, vocabulary, *tokens, progress, most_seconds=most_seconds)
    per_token = bytes_per_token(model, config, speed.cache)
    roofline = bandwidth / per_token.total
    decode = speed.decode_tokens_per_second
    return {
        "prompt_tokens": speed.prompt_tokens,
        "generate_tokens": speed.generate_tokens,
        "prefill_tokens_per_second": speed.prefill_tokens_per_second,
        "decode_tokens_per_second": decode,
        "time_to_first_token_seconds": speed.time_to_first_token_seconds,
        "decode_trials": list(speed.decode_trials),
        "peak_memory_bytes": mx.get_peak_memory(),
        "peak_process_bytes": _peak_process_bytes(),
        "bytes_per_token": {**asdict(per_token), "total": per_token.total},
        "roofline_tokens_per_second": roofline,
        "roofline_fraction": decode / roofline,
        "prediction": predict(checkpoint_dir, per_token.total, bandwidth, decode),
    }


def _left_out(report: JsonObject, prompt_tokens: int, generate_tokens: int) -> list[str]:
    """Return a sentence on what a bound in time left out, none when nothing was."""
    asked = prompt_tokens, generate_tokens, TRIALS
    done = report["prompt_tokens"], report["generate_tokens"], len(report["decode_trials"])
    if done == asked:
        return []
    words = ["{} prompt and {} generated tokens, {} times".format(*each) for each in (asked, done)]
    return [f"{words[0]}: without a GPU that takes too long; timed were {words[1]}"]


def _not_measured(device: JsonObject) -> list[str]:
    if device["backend"] == "metal":
        return []
    return [
        "Metal kernels and GPU speed: this machine has no Metal device",
        "multi-threaded speed: MLX runs on one CPU thread",
    ]
