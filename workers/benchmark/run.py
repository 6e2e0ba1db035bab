"""The benchmark of one checkpoint: speed, memory, and the distance from the roofline."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

import bitbudget
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.workers.benchmark.kernels import benchmark_kernels
from bitbudget.workers.benchmark.machine import describe_device, measure_bandwidth
from bitbudget.workers.benchmark.prediction import predict
from bitbudget.workers.benchmark.roofline import bytes_per_token
from bitbudget.workers.benchmark.speed import measure_speed

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


def _vocabulary(config: dict[str, Any]) -> int:
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


def benchmark(
    checkpoint_dir: Path | None,
    prompt_tokens: int = 512,
    generate_tokens: int = 128,
    *,
    kernels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure `checkpoint_dir` on this machine; the report of `benchmark --json`.

    With `kernels`, every Metal kernel is checked against its reference and timed against stock MLX
    operations; a checkpoint is then not needed. What this machine cannot measure is listed in
    `not_measured` with the reason.
    """
    _check(prompt_tokens, generate_tokens)
    device = describe_device()
    report: dict[str, Any] = {
        "device": device,
        "bandwidth_bytes_per_second": measure_bandwidth(),
        "not_measured": _not_measured(device),
    }
    if checkpoint_dir is not None:
        report |= _timed(
            checkpoint_dir,
            prompt_tokens,
            generate_tokens,
            report["bandwidth_bytes_per_second"],
            progress or (lambda _done, _total: None),
        )
    if kernels:
        report["kernels"] = benchmark_kernels()
    return report


def _timed(
    checkpoint_dir: Path,
    prompt_tokens: int,
    generate_tokens: int,
    bandwidth: float,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    model, config = bitbudget.load_model(checkpoint_dir)
    mx.reset_peak_memory()
    speed = measure_speed(
        model,
        _vocabulary(config),
        prompt_tokens,
        generate_tokens,
        progress,
    )
    per_token = bytes_per_token(model, config, speed.cache)
    roofline = bandwidth / per_token.total
    decode = speed.decode_tokens_per_second
    return {
        "prompt_tokens": prompt_tokens,
        "generate_tokens": generate_tokens,
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


def _not_measured(device: dict[str, Any]) -> list[str]:
    if device["backend"] == "metal":
        return []
    return [
        "Metal kernels and GPU speed: this machine has no Metal device",
        "multi-threaded speed: MLX runs on one CPU thread",
    ]
