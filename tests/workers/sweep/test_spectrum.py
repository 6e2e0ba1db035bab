from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.sweep import measure_weight
from bitbudget.workers.sweep import plan as plan_module


def matrix_with(
    spectrum: npt.NDArray[np.float64], rows: int, columns: int
) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    rank = len(spectrum)
    left = np.linalg.qr(rng.standard_normal((rows, rank)))[0]
    right = np.linalg.qr(rng.standard_normal((columns, rank)))[0]
    return np.asarray(left * spectrum @ right.T, np.float32)


SPECTRA = {
    "flat": np.ones(200),
    "power law": np.arange(1, 201) ** -0.7,
    "few directions": np.concatenate([np.full(4, 10.0), np.full(196, 0.1)]),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("rows", [300, 4000])
def test_effective_rank_matches_the_full_decomposition(name: str, rows: int) -> None:
    spectrum = SPECTRA[name]
    weight = matrix_with(spectrum, rows, 512)
    features = measure_weight([weight], Dtype.F32, (), Encoder.MINMAX).features
    squares = spectrum**2
    assert features["effective_rank"] == pytest.approx(
        squares.sum() ** 2 / (squares**2).sum(), rel=0.15
    )


@pytest.mark.parametrize("name", SPECTRA)
def test_full_features_match_the_full_decomposition(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "SEGMENT_WEIGHTS", 1 << 16)
    weight = matrix_with(SPECTRA[name], 700, 512)
    features = measure_weight([weight], Dtype.F32, (), Encoder.MINMAX, full=True).features
    energies = np.cumsum(np.linalg.svd(weight.astype(np.float64), compute_uv=False) ** 2)
    energies /= energies[-1]
    assert features["stable_rank"] == pytest.approx(1 / energies[0], rel=0.02)
    for rank in (1, 16, 64, 256):
        assert features[f"energy_top_{rank}"] == pytest.approx(energies[rank - 1], rel=0.02)
    assert features["spectral_tail"] == pytest.approx(0, abs=1e-3)


def test_full_features_are_only_made_when_asked_for() -> None:
    weight = matrix_with(SPECTRA["flat"], 300, 512)
    assert "stable_rank" not in measure_weight([weight], Dtype.F32, (), Encoder.MINMAX).features


def test_a_zero_weight_has_no_spectrum() -> None:
    weight = np.zeros((8, 64), np.float32)
    features = measure_weight([weight], Dtype.F32, (), Encoder.MINMAX, full=True).features
    assert "effective_rank" not in features
    assert features["rms"] == 0
