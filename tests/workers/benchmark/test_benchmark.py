"""The benchmark of the sample model, on whatever this machine has."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

import bitbudget
from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.decode import decode_bytes, passthrough_decode_bytes
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Encoder, Measurement, Sensitivity
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.workers.benchmark import benchmark
from bitbudget.workers.benchmark.prediction import predict
from bitbudget.workers.benchmark.roofline import bytes_per_token
from bitbudget.workers.benchmark.speed import _Plan
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.pipeline.tasks import run_task
from tests.workers.rotate.families import FAMILIES, make_model


def test_the_report_has_speed_memory_and_the_roofline(sample_model: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = benchmark(
        sample_model, 16, 4, kernels=True, progress=lambda done, total: steps.append((done, total))
    )
    assert report["decode_tokens_per_second"] > 0
    assert report["prefill_tokens_per_second"] > 0
    assert report["peak_process_bytes"] > 0
    assert report["device"]["versions"]["mlx"]
    expected = report["prediction"]["decode_tokens_per_second"]
    assert expected == pytest.approx(0.8 * report["roofline_tokens_per_second"])
    assert steps == [(1, 3), (2, 3), (3, 3)]
    if not mx.metal.is_available():
        assert report["kernels"]["available"] is False
        assert report["not_measured"]


def test_generation_is_bounded_in_time_and_says_what_was_left_out(sample_model: Path) -> None:
    steps: list[tuple[int, int]] = []
    told = lambda done, total: steps.append((done, total))  # noqa: E731
    report = benchmark(sample_model, 4096, 512, most_seconds_on_cpu=1e-3, progress=told)
    if mx.metal.is_available():
        assert (report["prompt_tokens"], report["generate_tokens"]) == (4096, 512)
        return
    assert (report["prompt_tokens"], report["generate_tokens"], steps) == (16, 2, [(1, 1)])
    assert report["decode_tokens_per_second"] > 0
    assert any("4096 prompt and 512 generated tokens, 3 times" in r for r in report["not_measured"])
    plenty = benchmark(sample_model, 16, 4, most_seconds_on_cpu=600)
    assert len(plenty["decode_trials"]) == 3
    assert not any("takes too long" in reason for reason in plenty["not_measured"])


def test_fewer_trials_come_before_fewer_tokens() -> None:
    plan = _Plan(100, 50, 3)
    assert plan.within(100, 0.1, 0.2) == plan
    assert plan.within(41, 0.1, 0.2) == _Plan(100, 50, 2)
    assert plan.within(10, 0.1, 0.2) == _Plan(50, 25, 1)
    assert plan.within(-1, 0.1, 0.2) == _Plan(16, 2, 1)


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


def test_the_bytes_a_token_reads_are_those_that_allocation_counts(sample_model: Path) -> None:
    model, config = bitbudget.load_model(sample_model)
    inventory = build_inventory(open_checkpoint(sample_model))
    counted = sum(decode_bytes(module, KEEP) for module in inventory.modules)
    counted += passthrough_decode_bytes(inventory)
    row = inventory.module("model.embed_tokens").shape[1] * 2
    assert bytes_per_token(model, config, []).total == counted - row


def test_a_manifest_is_held_against_the_measured_speed(tmp_path: Path) -> None:
    make_model(tmp_path / "model", "qwen3", FAMILIES["qwen3"])
    task = MeasureTask(
        home=str(tmp_path / "home"),
        model=str(tmp_path / "model"),
        encoder=Encoder.MINMAX,
        sensitivity=Sensitivity.WEIGHTS,
    )
    stored = Path(run_task(task, lambda _event: None).model_dump()["measurement"])
    measurement = Measurement.from_json(stored.read_bytes())
    request = AllocationRequest(device="m4-pro-24gb", context=512, min_tokens_per_second=100)
    allocation = allocate(measurement, request)
    layout = plan_checkpoint(measurement.inventory)
    manifest = Manifest.build(measurement, layout, request, allocation)
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    found = predict(tmp_path, 1_000_000, 1e9, 400.0)
    assert found["decode_tokens_per_second"] == pytest.approx(800)
    assert found["measured_over_predicted"] == pytest.approx(0.5)
    assert found["device_tokens_per_second"] == pytest.approx(0.8 * 273e9 / 1e6)
    assert (found["minimum_tokens_per_second"], found["meets_minimum"]) == (100, True)
    assert predict(tmp_path, 1_000_000, 1e9, 99.0)["meets_minimum"] is False
    assert predict(tmp_path / "none", 1_000_000, 1e9, 400.0)["device"] is None


def test_kernels_need_no_checkpoint() -> None:
    report = benchmark(None, kernels=True)
    assert "decode_tokens_per_second" not in report
    assert report["kernels"]["available"] == mx.metal.is_available()
    assert report["device"]["chip"]
