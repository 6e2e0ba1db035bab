"""Symmetric matrices come back from half their bytes as they were."""

from __future__ import annotations

import numpy as np
import pytest

from bitbudget.workers.fisher.symmetric import packed, unpacked


@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
def test_every_element_comes_back(n: int, lead: tuple[int, ...]) -> None:
    values = np.random.default_rng(n).standard_normal((*lead, n, n)).astype(np.float32)
    symmetric = values + values.swapaxes(-1, -2)
    found = packed(symmetric)
    assert found.dtype == np.float32
    assert found.shape[:-1] == lead
    assert found.shape[-1] <= n * (n + 1) // 2 + n // 2
    assert np.array_equal(unpacked(found, n), symmetric)
