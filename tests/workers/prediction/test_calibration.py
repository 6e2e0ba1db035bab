"""The factor between predicted and measured KL."""

from __future__ import annotations

import pytest

from bitbudget.workers.prediction.calibration import common_factor


def test_a_true_prediction_is_left_alone() -> None:
    assert common_factor([0.2, 0.01], [0.2, 0.01]) == pytest.approx(1)


def test_every_allocation_weighs_the_same_however_large_its_kl() -> None:
    assert common_factor([0.2, 0.001], [0.2, 0.004]) == pytest.approx(2)


def test_what_is_not_above_zero_says_nothing() -> None:
    assert common_factor([0.1, 0.0, 0.2], [0.2, 0.5, 0.0]) == pytest.approx(2)
    assert common_factor([], []) == 1


def test_the_factor_is_bounded() -> None:
    assert common_factor([0.1], [9.0]) == pytest.approx(4)
    assert common_factor([9.0], [0.1]) == pytest.approx(1 / 4)
