"""The evaluation of real quantized checkpoints against the sample model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_lm.utils import load_model, load_tokenizer, quantize_model, save

from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.workers.evaluate import Evaluator, compare, evaluate
from bitbudget.workers.evaluate.statistics import interval_95
from bitbudget.workers.evaluate.teacher import log_total, score, teach
from bitbudget.workers.evaluate.windows import _windows
from bitbudget.workers.running.float32 import load_float32

STORY = "Once upon a time there was a little girl who had a red ball. " * 60


def quantized(source: Path, target: Path, bits: int) -> Path:
    model, config = load_model(source)
    tokenizer: Any = load_tokenizer(source)  # type: ignore[no-untyped-call]
    model, config = quantize_model(model, config, group_size=64, bits=bits)
    save(target, str(source), model, tokenizer, config)
    return target


@pytest.fixture(scope="module")
def evaluation(sample_model: Path) -> Evaluator:
    return Evaluator(sample_model, rollouts=4, seed=1)


@pytest.fixture(scope="module")
def reports(
    sample_model: Path, evaluation: Evaluator, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("quantized")
    return {
        bits: evaluation.report(quantized(sample_model, folder / str(bits), bits))
        for bits in (8, 4, 2)
    }


def test_report_has_the_documented_fields(reports: dict[int, dict[str, Any]]) -> None:
    report = reports[4]
    low, high = report["kl_interval_95"]
    assert low < report["kl_nats_per_token"] < high
    assert 0.8 < report["top1_agreement"] < 1
    assert 0.8 < report["expected_acceptance_rate"] < 1
    assert 0.9 < report["perplexity_ratio"] < 1.2
    assert 0 < report["noise_floor"] < 1e-3
    assert report["tokens"] == 4 * 255
    assert report["kl_median"] < report["kl_p90"] < report["kl_p99"]
    assert not report["kl_is_lower_bound"]
    json.dumps(report)


def test_fewer_bits_cost_more(reports: dict[int, dict[str, Any]]) -> None:
    kl = [reports[bits]["kl_nats_per_token"] for bits in (8, 4, 2)]
    assert kl[0] < 5e-4
    assert kl[0] < kl[1] / 20
    assert kl[1] < kl[2] / 5
    assert reports[4]["distinguishable"]


def test_original_against_itself_is_zero(sample_model: Path, evaluation: Evaluator) -> None:
    report = evaluation.report(sample_model)
    assert abs(report["kl_nats_per_token"]) < 1e-7
    assert report["top1_agreement"] == 1
    assert report["perplexity_ratio"] == 1


def test_the_original_is_not_held_beside_a_checkpoint(sample_model: Path) -> None:
    evaluation = Evaluator(sample_model, rollouts=1)
    evaluation.original  # noqa: B018 - held from here on
    evaluation.report(sample_model)
    assert not {"original", "_teacher"} & set(vars(evaluation))


def test_compare_uses_the_same_resamples(reports: dict[int, dict[str, Any]]) -> None:
    comparison = compare(reports[8], reports[4])
    low, high = comparison["ratio_interval_95"]
    assert low < comparison["ratio"] < high < 0.1
    assert comparison["difference_interval_95"][1] < 0
    with pytest.raises(ValueError, match="different windows"):
        compare(reports[8], {**reports[4], "windows_digest": "0"})


def test_text_is_cut_at_documents(sample_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(STORY)
    report = evaluate(sample_model, sample_model, text=text)
    assert report["evaluated_on"] == "text"
    assert report["windows"] > 1
    assert _windows([[1, 2], [3, 4, 5], [6]], 0, 5) == [[0, 1, 2, 0, 3]]
    assert _windows([[*range(1, 10)]], 0, 4) == [[0, 1, 2, 3], [0, 4, 5, 6], [0, 7, 8, 9]]


def test_short_text_is_refused(sample_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Once upon a time.")
    with pytest.raises(InvalidRequestError, match="at least one window of 255"):
        evaluate(sample_model, sample_model, text=text)


def test_missing_tokenizer_is_named(sample_model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(sample_model / name, tmp_path / name)
    text = tmp_path / "text.txt"
    text.write_text(STORY)
    with pytest.raises(InvalidModelError, match="no tokenizer"):
        Evaluator(tmp_path, text=text)


def test_vocabulary_mismatch_is_named(evaluation: Evaluator, sample_model: Path) -> None:
    model = load_float32(sample_model)
    model.model.embed_tokens = nn.Embedding(4000, 256)
    with pytest.raises(InvalidModelError, match="a vocabulary of 4000"):
        evaluation.report_model(model, "candidate")


def test_nan_is_named(evaluation: Evaluator, sample_model: Path) -> None:
    model = load_float32(sample_model)
    model.model.norm.weight = mx.full((256,), mx.nan)
    with pytest.raises(InvalidModelError, match="NaN or infinite"):
        evaluation.report_model(model, "candidate")


def test_tail_bucket_bounds_kl_from_below(
    sample_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.array([[0, 402, 346, 13, 971, 391, 452, 268]], np.int32)
    model = load_float32(sample_model)
    whole = teach(model, ids, "model")
    monkeypatch.setattr("bitbudget.workers.evaluate.teacher._FULL_VOCABULARY", 100)
    part = teach(model, ids, "model")
    rng = np.random.default_rng(0)
    log_q = mx.array(whole.log_p + rng.normal(0, 0.3, whole.log_p.shape).astype(np.float32))
    log_q = log_q - mx.logsumexp(log_q, axis=-1, keepdims=True)
    full, bounded = score(whole, log_q), score(part, log_q)
    assert part.log_p.shape[-1] == 1024
    assert (bounded.kl <= full.kl + 1e-6).all()
    assert bounded.kl.mean() > 0.8 * full.kl.mean()
    assert np.array_equal(full.candidate_loss, bounded.candidate_loss)


def test_the_log_of_a_sum_of_exponentials_does_not_overflow() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (2, 3, 5000)).astype(np.float32)
    logits[0, 0] += 1000
    wide = logits.astype(np.float64)
    most = wide.max(-1, keepdims=True)
    exact = most + np.log(np.exp(wide - most).sum(-1, keepdims=True))
    assert np.allclose(np.array(log_total(mx.array(logits))), exact, rtol=1e-6)


def test_interval_is_reproducible_and_covers() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, 64)
    low, high = interval_95(values, seed=5)
    assert (low, high) == interval_95(values, seed=5)
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 8, rel=0.2)
