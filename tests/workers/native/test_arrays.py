"""How arrays are handed to the kernels."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from bitbudget.workers.native.arrays import address


def test_an_address_keeps_its_array_alive() -> None:
    array = np.ones(8, np.float32)
    alive = weakref.ref(array)
    pointer = address(array)
    del array
    assert alive() is not None
    del pointer
    assert alive() is None


def test_a_view_with_gaps_has_no_address() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        address(np.ones((4, 4), np.float32)[:, ::2])
