"""Orders: legal for every group size, most cost first, undone without a trace."""

from __future__ import annotations

import numpy as np
import pytest

from bitbudget.app.core.formats import AFFINE_FORMATS, Format
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.order import Order


@pytest.mark.parametrize("width", [32, 96, 192, 512])
def test_groups_stay_together_and_cost_falls(width: int) -> None:
    rng = np.random.default_rng(width)
    moment = np.diag(np.exp(rng.normal(size=width)))
    rows = np.diag(rng.uniform(0, 1, 40))
    order = Order.by_cost(moment, rows)
    assert sorted(order.columns) == list(range(width))
    assert (np.diff(np.diagonal(order.down(rows))) <= 0).all()
    energy = np.diagonal(order.across(moment))
    for size in (32, 64, 128):
        if width % size == 0:
            groups = order.columns.reshape(-1, size) // size
            assert (groups == groups[:, :1]).all()
    largest = max(size for size in (32, 64, 128) if width % size == 0)
    assert (np.diff(energy.reshape(-1, largest).sum(1)) <= 0).all()
    assert (np.diff(energy.reshape(-1, 32), axis=1) <= 0).all()


@pytest.mark.parametrize("format_", AFFINE_FORMATS[:3], ids=str)
def test_what_was_coded_in_an_order_is_the_weights_own_after_it_is_undone(format_: Format) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, (24, 256)).astype(np.uint8)
    groups = 256 // format_.group_size
    own = Coded(codes, rng.normal(size=(24, groups)), rng.normal(size=(24, groups)))
    rows = np.diag(rng.uniform(0, 1, 24))
    order = Order.by_cost(np.diag(rng.uniform(0, 1, 256)), rows)
    grouped = order.columns[:: format_.group_size] // format_.group_size
    grids = (part[np.ix_(order.rows, grouped)] for part in (own.scales, own.biases))
    there = Coded(order.weight(codes), *grids)
    assert np.array_equal(there.values, order.weight(own.values))
    back = order.undone(there, format_)
    assert np.array_equal(back.codes, own.codes)
    assert np.array_equal(back.scales, own.scales)
    assert np.array_equal(back.biases, own.biases)
