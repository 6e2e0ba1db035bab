"""Models that do not fit in memory are read for each pass, and give the same numbers."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import psutil
import pytest
from mlx import nn

from bitbudget.workers.evaluate import Evaluator
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.streaming_forward import Forward, Unheld, open_forward, open_writer
from bitbudget.workers.running.tokens import sample_tokens
from tests.workers.models.tiny import write_tiny

IDS = mx.array(np.arange(48).reshape(2, 24))
LITTLE = 1000
"""Bytes of a memory in which nothing fits."""


def peak_bytes(run: Callable[[], mx.array]) -> int:
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(run())
    return mx.get_peak_memory() - before


def test_a_model_fits_as_often_as_it_has_to(sample_model: Path) -> None:
    nbytes = 4 * sum(a.size for a in _arrays(load_float32(sample_model)))
    assert isinstance(open_forward(sample_model, memory_bytes=2 * nbytes), nn.Module)
    assert isinstance(open_forward(sample_model, memory_bytes=2 * nbytes - 1), Unheld)
    assert isinstance(open_forward(sample_model, copies=2, memory_bytes=2 * nbytes), Unheld)


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_reading_for_each_pass_gives_the_same_logits(tmp_path: Path, kind: str) -> None:
    folder = write_tiny(tmp_path, kind)
    whole, read = open_forward(folder), open_forward(folder, memory_bytes=LITTLE)
    assert np.array_equal(np.array(whole(IDS)), np.array(read(IDS)))


def test_a_pass_holds_a_part_of_the_model(sample_model: Path) -> None:
    whole, read = open_forward(sample_model), open_forward(sample_model, memory_bytes=LITTLE)
    assert peak_bytes(lambda: read(IDS)) < 0.6 * peak_bytes(lambda: whole(IDS))
    half = open_forward(sample_model, dtype=mx.bfloat16, memory_bytes=LITTLE)
    assert half(IDS).dtype == mx.bfloat16


def test_the_text_of_a_large_model_is_its_own(
    sample_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    expected = sample_tokens(
        sample_model, 2, 12, seed=3, batch=1, progress=lambda *step: told.append(step)
    )
    assert told[0] == (2, 24)
    assert told[-1] == (24, 24)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=LITTLE))
    assert np.array_equal(sample_tokens(sample_model, 2, 12, seed=3, batch=1), expected)


def test_a_4_bit_copy_writes_where_the_model_does_not_fit(sample_model: Path) -> None:
    nbytes = 4 * sum(a.size for a in _arrays(load_float32(sample_model)))
    copy = open_writer(sample_model, memory_bytes=nbytes)
    assert isinstance(copy, nn.Module)
    assert sum(a.nbytes for a in _arrays(copy)) < nbytes / 4
    assert peak_bytes(lambda: open_writer(sample_model, memory_bytes=nbytes)(IDS)) < 0.6 * nbytes
    loss = _mean_kl(load_float32(sample_model), copy)
    assert 0 < loss < 0.1
    assert sample_tokens(sample_model, 2, 8, seed=0, model=copy).shape == (2, 8)


def test_an_evaluation_of_models_that_do_not_fit_says_the_same(
    sample_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Evaluator(sample_model, rollouts=2).report(sample_model)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=LITTLE))
    assert Evaluator(sample_model, rollouts=2).report(sample_model) == expected


def _arrays(model: nn.Module) -> list[mx.array]:
    return [array for module in model.modules() for array in module.values() if _is_array(array)]


def _is_array(value: object) -> bool:
    return isinstance(value, mx.array)


def _mean_kl(one: Forward, other: Forward) -> float:
    p, q = (nn.log_softmax(model(IDS)) for model in (one, other))
    return float((mx.exp(p) * (p - q)).sum(-1).mean())
