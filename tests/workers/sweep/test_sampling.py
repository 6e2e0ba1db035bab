"""Estimates from chunks: what is drawn, what is estimated, and that a regression is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.native.loader import kernels, supported_variants
from workers.sweep import sampling
from workers.sweep.sampling import SampleSums, draw_chunks, estimate

FORMATS = 18


@given(seed=st.integers(0, 99), draws=st.integers(1, 400), spread=st.floats(0, 3))
def test_draws_stand_for_all_the_energy(seed: int, draws: int, spread: float) -> None:
    energies = np.exp(spread * np.random.default_rng(seed).standard_normal(400))
    drawn = draw_chunks(energies, draws)
    assert drawn.certain.size + drawn.drawn.size in {draws, energies.size}
    assert not set(drawn.certain) & set(drawn.drawn)
    stood_for = energies[drawn.certain].sum() + (drawn.stands_for * energies[drawn.drawn]).sum()
    assert stood_for == pytest.approx(energies.sum(), rel=1e-9)


def sample(known: np.ndarray, careful: np.ndarray, draws: int) -> SampleSums:
    drawn = draw_chunks(known[:, 0], draws)
    chosen = np.concatenate([drawn.certain, drawn.drawn])
    whole = known[:, 1:].sum(0)
    return SampleSums.of(known[:, 0].copy(), whole, drawn, known[chosen, 1:], careful[chosen])


@pytest.mark.parametrize("draws", [40, 400])
def test_what_the_known_explains_is_estimated_exactly(draws: int) -> None:
    rng = np.random.default_rng(1)
    known = rng.gamma(4, size=(4000, 1 + FORMATS))
    mixed = rng.random((1 + FORMATS, FORMATS)) if draws == 400 else np.ones((1, FORMATS))
    careful = known[:, : len(mixed)] @ mixed
    total, relative = estimate(sample(known, careful, draws))
    assert np.allclose(total, careful.sum(0), rtol=1e-9)
    assert np.all(relative < 1e-6)


def test_formats_that_are_not_measured_and_equal_ones_do_no_harm() -> None:
    rng = np.random.default_rng(2)
    known = rng.gamma(4, size=(4000, 1 + FORMATS))
    known[:, 5] = known[:, 4]
    known[:, 9] = 0
    careful = known[:, 1:] * rng.uniform(0.8, 1, size=(4000, FORMATS))
    total, relative = estimate(sample(known, careful, 400))
    off = np.divide(total, careful.sum(0), out=np.ones(FORMATS), where=careful.sum(0) > 0) - 1
    assert np.all(np.abs(off) <= 4 * relative + 1e-12)
    assert total[8] == 0


def test_a_regression_is_the_same_bits_in_every_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    known = rng.gamma(4, size=(4000, 1 + FORMATS))
    careful = known[:, 1:] * rng.uniform(0.8, 1, size=(4000, FORMATS))
    found = set()
    for variant in supported_variants():
        chosen = kernels(variant)
        monkeypatch.setattr(sampling, "kernels", lambda chosen=chosen: chosen)
        found.add(estimate(sample(known, careful, 400))[0].tobytes())
    assert len(found) == 1
