"""Estimates from chunks: what is drawn, what is estimated, and that a regression is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbudget.workers.native.loader import kernels, supported_variants
from bitbudget.workers.sweep import sampling
from bitbudget.workers.sweep.sampling import KNOWN, SampleSums, draw_chunks, estimate, spreads_of

FORMATS = 18


@given(seed=st.integers(0, 99), draws=st.integers(1, 400), spread=st.floats(0, 3))
def test_draws_stand_for_all_the_spread(seed: int, draws: int, spread: float) -> None:
    spreads = np.exp(spread * np.random.default_rng(seed).standard_normal(400))
    drawn = draw_chunks(spreads, draws)
    assert drawn.certain.size + drawn.drawn.size in {draws, spreads.size}
    assert not set(drawn.certain) & set(drawn.drawn)
    stood_for = spreads[drawn.certain].sum() + (drawn.stands_for * spreads[drawn.drawn]).sum()
    assert stood_for == pytest.approx(spreads.sum(), rel=1e-9)


def sample(known: np.ndarray, careful: np.ndarray, draws: int) -> SampleSums:
    drawn = draw_chunks(spreads_of(known.T), draws)
    chosen = np.concatenate([drawn.certain, drawn.drawn])
    return SampleSums.of(known.sum(0), drawn, known[chosen], careful[chosen])


def random_known() -> np.ndarray:
    return np.random.default_rng(1).gamma(4, size=(4000, KNOWN))


@pytest.mark.parametrize("draws", [40, 400])
def test_what_the_known_explains_is_estimated_exactly(draws: int) -> None:
    known = random_known()
    mixed = np.random.default_rng(2).random((KNOWN, FORMATS))
    careful = known @ mixed if draws == 400 else spreads_of(known.T)[:, None] * mixed[:1]
    total, relative = estimate(sample(known, careful, draws))
    assert np.allclose(total, careful.sum(0), rtol=1e-9)
    assert np.all(relative < 1e-6)


def test_formats_that_are_not_measured_and_equal_numbers_do_no_harm() -> None:
    known = random_known()
    known[:, 5] = known[:, 3]
    known[:, 9] = 0
    careful = known[:, :1] * np.random.default_rng(2).uniform(0.8, 1, size=(4000, FORMATS))
    careful[:, 8] = 0
    total, relative = estimate(sample(known, careful, 400))
    off = np.divide(total, careful.sum(0), out=np.ones(FORMATS), where=careful.sum(0) > 0) - 1
    assert np.all(np.abs(off) <= 4 * relative + 1e-12)
    assert total[8] == 0


def test_a_regression_is_the_same_bits_in_every_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    known = random_known()
    careful = known[:, :1] * np.random.default_rng(3).uniform(0.8, 1, size=(4000, FORMATS))
    found = set()
    for variant in supported_variants():
        chosen = kernels(variant)
        monkeypatch.setattr(sampling, "kernels", lambda chosen=chosen: chosen)
        found.add(estimate(sample(known, careful, 400))[0].tobytes())
    assert len(found) == 1
