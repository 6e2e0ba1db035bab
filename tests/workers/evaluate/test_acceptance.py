"""Acceptance with shared noise: the formula, what speculative decoding counts, and predictions."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import convert

from benchmarks.drafts import Counted, count_accepted, tried_and_accepted
from bitbudget.app.core.drafting import best_drafting
from bitbudget.workers.evaluate.acceptance import agreement, measure_acceptance
from bitbudget.workers.evaluate.windows import rollout_windows


def test_the_formula_is_that_of_the_double_loop() -> None:
    random = np.random.default_rng(1)
    p, q = random.dirichlet(np.full(50, 0.3), 8), random.dirichlet(np.full(50, 0.3), 8)
    expected = [
        sum(1 / np.maximum(a / a[i], b / b[i]).sum() for i in range(50))
        for a, b in zip(p, q, strict=True)
    ]
    found = agreement(mx.array(np.log(p).astype("f4")), mx.array(np.log(q).astype("f4")))
    assert np.allclose(np.array(found), expected, rtol=1e-4)


def test_equal_models_agree_always() -> None:
    log_p = mx.array(np.log(np.random.default_rng(0).dirichlet(np.ones(9), 4)).astype("f4"))
    assert np.allclose(np.array(agreement(log_p, log_p)), 1, atol=1e-5)


def test_a_cheap_good_draft_is_drafted_from_and_a_bad_one_is_not() -> None:
    good = best_drafting(0.93, 3.5 / 8.5)
    assert good.drafted >= 2
    assert 1.2 < good.speedup < 1.8
    assert best_drafting(0.3, 0.6).drafted == 0
    assert best_drafting(0.9, 0.2, verify_cost=3).speedup < best_drafting(0.9, 0.2).speedup


def test_cycles_are_counted_up_to_their_first_refusal() -> None:
    all_accepted, one, none, unfinished = [1, 1, 1, 0], [1, 0], [0], [1]
    flags = [bool(flag) for flag in all_accepted + one + none + unfinished]
    assert tried_and_accepted(flags, 3) == Counted(tried=3 + 2 + 1, accepted=3 + 1)


@pytest.mark.slow
def test_speculative_decoding_accepts_what_is_predicted(sample_model: Path, tmp_path: Path) -> None:
    target, draft = tmp_path / "8 bit", tmp_path / "3 bit"
    for folder, bits in ((target, 8), (draft, 3)):
        convert(str(sample_model), str(folder), quantize=True, q_group_size=64, q_bits=bits)
    predicted = measure_acceptance(target, draft, rollout_windows(target, 16, seed=0)).acceptance
    counted = count_accepted(target, draft)
    assert counted.tried >= 600
    assert abs(counted.rate - predicted) < 0.03
