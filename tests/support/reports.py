"""Reports as a worker sends them, of numbers that a test chooses."""

from __future__ import annotations

from typing import Any

from bitbudget.app.contract.benchmarks import Benchmark
from bitbudget.app.contract.reports import Evaluation, JobResult
from bitbudget.app.contract.texts import TextComparison, WrittenText
from bitbudget.app.core.manifest import Manifest

__all__ = ["benchmark", "evaluation", "job_result", "text_comparison"]


def evaluation(kl: float = 0.0123, **more: Any) -> Evaluation:
    """An evaluation of one window of text."""
    scores: dict[str, Any] = {
        "kl_nats_per_token": kl,
        "kl_interval_95": [kl * 0.9, kl * 1.1],
        "kl_median": kl,
        "kl_p90": kl,
        "kl_p99": kl,
        "kl_max": kl,
        "top1_agreement": 0.97,
        "expected_acceptance_rate": 0.95,
        "perplexity_ratio": 1.01,
        "reference_perplexity": 8.5,
        "tokens": 8192,
        "windows": 1,
        "kl_per_window": [kl],
        "windows_digest": "0" * 64,
    }
    whole = {
        **scores,
        "evaluated_on": "text",
        "noise_floor": 1e-4,
        "noise_floor_path": "bfloat16 computation",
        "distinguishable": True,
        "vocabulary": 256,
        "kl_is_lower_bound": False,
        "top_k": 256,
        "seed": 0,
        "checkpoint": "/checkpoints/model",
        "reference": "/models/original",
        "sets": {"text": scores},
    }
    return Evaluation.model_validate(whole | more)


def benchmark(chip: str = "test", speed: float = 50.0, predicted: float = 40.0) -> Benchmark:
    """A benchmark with the speeds that pages show."""
    return Benchmark.model_validate(
        {
            "device": {
                "chip": chip,
                "backend": "metal",
                "memory_bytes": 24 * 2**30,
                "working_set_bytes": None,
                "logical_cores": 10,
                "system": "Darwin 25",
                "machine": "arm64",
                "python": "3.12.0",
                "versions": {"mlx": "0.32.4"},
            },
            "bandwidth_bytes_per_second": 2e11,
            "not_measured": [],
            "decode_tokens_per_second": speed,
            "prefill_tokens_per_second": 900.0,
            "roofline_fraction": 0.7,
            "prediction": {
                "efficiency": 0.8,
                "decode_tokens_per_second": predicted,
                "measured_over_predicted": speed / predicted,
                "device": None,
                "device_tokens_per_second": None,
                "minimum_tokens_per_second": None,
                "meets_minimum": None,
            },
        }
    )


def text_comparison(prompt: str) -> TextComparison:
    """Two texts of which the second is made faster, in less memory."""
    original = WrittenText(
        text=", there was a little girl named Lily.",
        tokens=9,
        seconds_to_first_token=0.2,
        tokens_per_second=20.0,
        predicted_tokens_per_second=24.0,
        weight_bytes=4 * 2**20,
        peak_memory_bytes=6 * 2**20,
        predicted_memory_bytes=5 * 2**20,
    )
    faster = {"tokens_per_second": 60.0, "weight_bytes": 2**20, "peak_memory_bytes": 2 * 2**20}
    return TextComparison(
        prompt=prompt,
        prompt_tokens=4,
        bandwidth_bytes_per_second=12e9,
        on_gpu=False,
        original=original,
        result=original.model_copy(
            update={"text": ", there was a little boy named Tim.", **faster}
        ),
        same_tokens=5,
    )


def job_result(manifest: Manifest, **more: Any) -> JobResult:
    """The result of a job that delivered a checkpoint of `manifest`."""
    return JobResult.model_validate(
        {
            "sha256": manifest.sha256,
            "file_bytes": manifest.file_bytes,
            "budget_bytes": manifest.budget_bytes,
            "bits_per_weight": manifest.bits_per_weight,
            **manifest.certificate.model_dump(mode="json"),
            "notes": manifest.notes,
            "manifest": "/out/manifest.json",
            "measurement": "/state/measurement.json",
            "measurement_key": manifest.measurement,
            "checkpoint": "/out",
            **more,
        }
    )
