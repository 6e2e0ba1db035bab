"""Predictions beside measurements: what their agreement is called."""

from __future__ import annotations

import numpy as np
import pytest

from bitbudget.workers.prediction.agreement import agreement, typical_error


def test_the_typical_error_is_that_of_what_is_well_known() -> None:
    found = agreement([1.0, 1.0, 1.0], [1.1, 1 / 1.1, 3.0], [4.0, 5.0, 8.0])
    assert typical_error(found, [0.05, 0.05, 5.0]) == pytest.approx(np.log(1.1), rel=0.01)
    assert typical_error(found, [0.05, 0.05, 0.05]) > 0.5
    nothing = agreement([0.0, 0.0], [0.0, 0.0], [16.0, 16.0])
    assert typical_error(nothing, [0.0, 0.0]) == 0


def test_agreement_of_a_perfect_and_of_a_scaled_prediction() -> None:
    perfect = agreement([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [3.0, 4.0, 5.0])
    assert perfect.r_squared == pytest.approx(1)
    assert perfect.spearman == pytest.approx(1)
    assert perfect.slope == pytest.approx(1)
    halved = agreement([1.0, 2.0, 4.0], [0.5, 1.0, 2.0], [3.0, 4.0, 5.0])
    assert halved.slope == pytest.approx(0.5)
    assert halved.spearman == pytest.approx(1)
    assert halved.r_squared < 0
