"""Drawing units in proportion to their size, and estimating totals from them."""

from __future__ import annotations

import numpy as np
import pytest

from bitbudget.workers.curves.row_sampling import draw, estimate, random_start


def test_probabilities_are_in_proportion_to_size_and_add_up() -> None:
    size = np.random.default_rng(0).exponential(size=200)
    starts = np.linspace(0, 1, 400, endpoint=False)
    times = np.zeros(200)
    for start in starts:
        drawn = draw(size, 20, start)
        assert len(drawn.units) == 20
        times[drawn.units] += 1
    expected = 20 * size / size.sum()
    assert np.abs(times / len(starts) - np.minimum(expected, 1)).max() < 0.02


def test_an_outlier_is_in_by_right() -> None:
    size = np.ones(100)
    size[37] = 1000
    drawn = draw(size, 10, random_start("a"))
    assert drawn.probability[drawn.units == 37] == 1
    assert drawn.probability.sum() == pytest.approx(1 + 9 * 9 / 99)


def test_more_units_than_there_are_is_all_of_them() -> None:
    drawn = draw(np.array([1.0, 0.0, 3.0]), 10, 0.5)
    assert drawn.units.tolist() == [0, 1, 2]
    assert drawn.probability.tolist() == [1, 1, 1]
    found = np.array([2.0, 0.5, 4.0])
    total, error = estimate(found, np.array([1.0, 0.0, 3.0]), 4.0, drawn.probability)
    assert total == pytest.approx(6.5)
    assert error == 0


def test_sizes_of_zero_are_drawn_alike() -> None:
    drawn = draw(np.zeros(8), 4, 0.25)
    assert len(drawn.units) == 4
    assert drawn.probability == pytest.approx(np.full(4, 0.5))


def test_the_error_said_is_the_error_made() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.exponential(size=2000)
    truth = predicted * np.exp(0.3 * rng.normal(size=2000))
    made, said = [], []
    for start in np.linspace(0, 1, 100, endpoint=False):
        drawn = draw(predicted, 60, start)
        units = drawn.units
        total, error = estimate(truth[units], predicted[units], predicted.sum(), drawn.probability)
        made.append(total / truth.sum() - 1)
        said.append(error)
    assert abs(np.mean(made)) < 0.01
    assert np.std(made) == pytest.approx(np.mean(said), rel=0.3)


def test_nothing_predicted_is_what_was_found() -> None:
    assert estimate(np.zeros(3), np.zeros(3), 0.0, np.full(3, 0.5)) == (0, 0)
