"""What is refused before anything is measured, and that all who say a minimum say the same."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.core.allocate import smallest_bytes
from bitbudget.app.core.candidates import Rules
from bitbudget.app.core.devices import device
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.fit_report import fit
from bitbudget.app.core.formats import parse_format
from bitbudget.app.core.least import _GAUSSIAN_SQNR_DB, check_feasible, least_bytes
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest


@pytest.mark.parametrize("bits", sorted(_GAUSSIAN_SQNR_DB))
def test_the_table_is_what_gaussian_weights_give(bits: int) -> None:
    weights = mx.array(np.random.default_rng(0).standard_normal((4000, 32)).astype(np.float32))
    error = weights - mx.dequantize(*mx.quantize(weights, 32, bits), 32, bits)
    ratio = np.array(mx.square(weights).sum() / mx.square(error).sum())
    assert 10 * math.log10(float(ratio)) == pytest.approx(_GAUSSIAN_SQNR_DB[bits], abs=0.1)


def test_headers_and_curves_name_the_same_minimum(measurement: Measurement) -> None:
    rules = Rules(sqnr_floor_db=0.0)
    assert least_bytes(measurement.inventory, rules) == smallest_bytes(measurement, rules)


def test_fit_and_the_refusal_name_the_same_minimum(measurement: Measurement) -> None:
    inventory = measurement.inventory
    with pytest.raises(InfeasibleBudgetError) as refused:
        check_feasible(inventory, AllocationRequest(budget=1))
    report = fit(inventory, device("m4-pro-24gb"), 8)
    assert refused.value.minimum_bytes == report.smallest.file_bytes


def test_a_floor_and_a_pin_raise_the_minimum_and_no_floor_lowers_it(
    measurement: Measurement,
) -> None:
    inventory = measurement.inventory
    usual = least_bytes(inventory, Rules())
    path = inventory.modules[0].path
    assert least_bytes(inventory, Rules(sqnr_floor_db=0.0)) < usual
    assert least_bytes(inventory, Rules(floors={"*": 8})) > usual
    assert least_bytes(inventory, Rules(pins={path: parse_format("keep")})) > usual


def test_what_may_just_fit_is_left_to_the_curves(measurement: Measurement) -> None:
    least = least_bytes(measurement.inventory, Rules())
    check_feasible(measurement.inventory, AllocationRequest(budget=least - least // 200))
    check_feasible(measurement.inventory, AllocationRequest(min_safe=True))
