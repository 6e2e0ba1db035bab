"""A prompt continued by an original and by checkpoints of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import convert, generate, load

from bitbudget.app.contract.texts import TextComparison
from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.app.core.machine_speed import TYPICAL
from bitbudget.workers.benchmark import texts
from bitbudget.workers.benchmark.texts import compare_texts
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint

PROMPT = "Once upon a time"


def compared(original: Checkpoint, *arguments: Any, **options: Any) -> TextComparison:
    return compare_texts(original, build_inventory(original), *arguments, speed=TYPICAL, **options)


def test_both_texts_are_those_that_stock_mlx_lm_writes(
    sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "measure_bandwidth", lambda: 1e12)
    quantized = tmp_path / "out"
    convert(str(sample_model), str(quantized), quantize=True, q_bits=3, q_group_size=64)

    found = compared(open_checkpoint(sample_model), quantized, PROMPT, 24)

    assert found.original is not None
    for side, folder in ((found.original, sample_model), (found.result, quantized)):
        model, tokenizer, *_ = load(str(folder))
        stock = generate(model, tokenizer, PROMPT, max_tokens=24)
        assert side.text.strip() == stock.strip()
        assert side.tokens_per_second
        assert 0.8 < side.peak_memory_bytes / side.predicted_memory_bytes < 1.1
    assert found.result.weight_bytes < found.original.weight_bytes / 3
    assert found.same_tokens < 24
    bound = found.original.predicted_tokens_per_second
    assert found.result.predicted_tokens_per_second < bound, "a CPU is slower on packed weights"
    assert found.on_gpu == mx.metal.is_available()


def test_an_original_is_the_same_as_itself(sample_model: Path) -> None:
    found = compared(open_checkpoint(sample_model), sample_model, PROMPT, 5)

    assert found.original is not None
    assert found.original.text == found.result.text
    assert found.same_tokens == found.result.tokens == 5


def test_an_original_larger_than_memory_is_left_out_and_said(sample_model: Path) -> None:
    checkpoint = open_checkpoint(sample_model)

    found = compared(checkpoint, sample_model, PROMPT, 2, memory_bytes=2**20)

    assert found.original is None
    assert found.left_out.endswith("this machine has 1.00 MiB of memory, of which 70% may be used.")
    assert found.result.tokens == 2


def test_what_cannot_be_compared_is_refused(sample_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sample_model)
    with pytest.raises(InvalidRequestError, match="fewer tokens"):
        compared(checkpoint, sample_model, "word " * 3000, 1)
    with pytest.raises(InvalidModelError, match=r"no config\.json"):
        compared(checkpoint, tmp_path, PROMPT, 1)
