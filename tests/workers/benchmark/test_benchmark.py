"""The benchmark of the sample model, on whatever this machine has."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

import bitbudget
from app.core.errors import InvalidRequestError
from workers.benchmark import benchmark
from workers.benchmark.roofline import bytes_per_token


def test_the_report_has_speed_memory_and_the_roofline(sample_model: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = benchmark(
        sample_model, 16, 4, kernels=True, progress=lambda done, total: steps.append((done, total))
    )
    assert report["decode_tokens_per_second"] > 0
    assert report["prefill_tokens_per_second"] > 0
    assert report["peak_process_bytes"] > 0
    assert report["device"]["versions"]["mlx"]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    if not mx.metal.is_available():
        assert report["kernels"]["available"] is False
        assert report["not_measured"]


def test_a_tied_dense_model_reads_every_weight_once_a_token(sample_model: Path) -> None:
    model, config = bitbudget.load_model(sample_model)
    read = bytes_per_token(model, config, [])
    weights = (sample_model / "model.safetensors").stat().st_size
    assert read.experts == read.cache == 0
    assert weights * 0.99 < read.total < weights


def test_experts_count_the_share_a_token_uses(fixtures_dir: Path) -> None:
    model, config = bitbudget.load_model(fixtures_dir / "tinyqwen3-moe")
    read = bytes_per_token(model, config, [])
    weights = [
        module["weight"].nbytes
        for module in model.modules()
        if type(module).__name__ == "SwitchLinear"
    ]
    assert read.experts == sum(weights) * 2 // 8


def test_too_few_tokens_are_refused(sample_model: Path) -> None:
    with pytest.raises(InvalidRequestError, match="generate"):
        benchmark(sample_model, 16, 1)
