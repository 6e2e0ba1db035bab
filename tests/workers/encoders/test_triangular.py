"""The factor of wide inverses, strip by strip."""

from __future__ import annotations

import numpy as np
import pytest

from bitbudget.workers.encoders.compensated import inverse_factor
from bitbudget.workers.encoders.triangular import inverse_factor_of


def moment(size: int) -> np.ndarray:
    rng = np.random.default_rng(size)
    x = rng.normal(size=(size, size // 3)) * np.exp(rng.normal(size=(size, 1)))
    result: np.ndarray = (x @ x.T).astype(np.float32)
    return result


@pytest.mark.parametrize("size", [5, 256, 300, 1500])
def test_it_is_the_upper_factor_of_the_inverse(size: int) -> None:
    matrix = moment(size)
    mean = float(np.trace(matrix)) / size
    upper = inverse_factor_of(matrix, 1 / mean, 0.01).astype(np.float64)
    assert np.array_equal(upper, np.triu(upper))
    assert (np.diagonal(upper) > 0).all()
    product = upper.T @ upper @ (matrix / mean + 0.01 * np.eye(size))
    assert np.abs(product - np.eye(size)).max() < 1e-2


def test_the_factor_is_that_of_the_inverse() -> None:
    matrix = moment(400)
    damped = matrix / (np.trace(matrix) / 400) + 0.01 * np.eye(400)
    expected = np.linalg.cholesky(np.linalg.inv(damped)).T
    found = inverse_factor(matrix)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_matrix_that_is_not_positive_is_refused() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        inverse_factor_of(-np.eye(300, dtype=np.float32), 1.0, 0.01)
