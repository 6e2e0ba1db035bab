"""The KL to expect of what curves add up to: a rising law through measured checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitbudget.app.core.allocate import allocate, allocate_nested
from bitbudget.app.core.calibration import UNCALIBRATED, Calibration, CheckpointKl
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.frontier import frontier, solve_budgets
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest

LAW = Calibration(costs=(0.001, 0.01, 0.1), measured=(0.002, 0.01, 0.3))
POSITIVE = st.floats(1e-9, 10, allow_nan=False)


def test_it_goes_through_its_checkpoints_as_powers_and_on_in_proportion() -> None:
    assert [LAW.kl(cost) for cost in LAW.costs] == pytest.approx(LAW.measured)
    assert LAW.kl(1e-6) == pytest.approx(2e-6)
    assert LAW.kl(2.0) == pytest.approx(6.0)
    assert LAW.kl(np.sqrt(0.001 * 0.01)) == pytest.approx(np.sqrt(0.002 * 0.01))
    assert LAW.kl(0) == 0
    assert LAW.share(0.1) == pytest.approx(3)
    assert UNCALIBRATED.kl(0.7) == 0.7
    assert UNCALIBRATED.slope(0.7) == UNCALIBRATED.share(0.7) == 1


@given(st.lists(st.tuples(POSITIVE, POSITIVE), max_size=8), POSITIVE, st.floats(1.0001, 100))
def test_it_rises_whatever_was_measured(
    checkpoints: list[tuple[float, float]], cost: float, more: float
) -> None:
    known = [CheckpointKl(*checkpoint) for checkpoint in checkpoints]
    found = Calibration.through(known)
    assert found.kl(cost) <= found.kl(cost * more)
    assert found.slope(cost) >= 0
    assert Calibration.through(reversed(known)) == found


@given(st.floats(1e-5, 1))
def test_the_slope_is_the_derivative(cost: float) -> None:
    if min(abs(cost / corner - 1) for corner in LAW.costs) > 1e-4:
        rise = (LAW.kl(cost * (1 + 1e-6)) - LAW.kl(cost * (1 - 1e-6))) / (2e-6 * cost)
        assert LAW.slope(cost) == pytest.approx(rise, rel=1e-3)


def test_measured_in_the_wrong_order_counts_as_one() -> None:
    found = Calibration.through(
        [CheckpointKl(0.01, 0.04, 0.1), CheckpointKl(0.04, 0.01, 0.3), CheckpointKl(1.0, 1.0)]
    )
    assert found.costs == pytest.approx((0.02, 1.0))
    assert found.measured == pytest.approx((0.02, 1.0))
    assert found.log_errors == pytest.approx((np.sqrt(0.05), 0))


def test_an_interval_is_as_wide_as_the_checkpoints_leave_open() -> None:
    law = Calibration((0.001, 0.01, 0.1), (0.002, 0.01, 0.3), (0.1, 0.2, 0.3))
    low, high = law.interval_95(0.01) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.01 * np.exp(-0.392), 0.01 * np.exp(0.392)))
    between = law.interval_95(0.001 * np.sqrt(10)) or (0.0, 0.0)
    assert between[1] / between[0] == pytest.approx(np.exp(2 * 1.96 * 0.15))
    drift = np.log(30) / np.log(10) - 1
    low, high = law.interval_95(0.1 * np.e) or (0.0, 0.0)
    assert np.log(high / low) == pytest.approx(2 * 1.96 * np.hypot(0.3, drift))
    assert low < law.kl(0.1 * np.e) < high
    assert LAW.interval_95(0.01) is UNCALIBRATED.interval_95(0.01) is None
    assert law.interval_95(0) is None


@given(
    st.lists(st.tuples(POSITIVE, POSITIVE, st.floats(0, 1)), min_size=1, max_size=6),
    POSITIVE,
)
def test_an_interval_holds_what_is_predicted(
    checkpoints: list[tuple[float, float, float]], cost: float
) -> None:
    law = Calibration.through(CheckpointKl(*checkpoint) for checkpoint in checkpoints)
    low, high = law.interval_95(cost) or (0.0, 0.0)
    assert low <= law.kl(cost) <= high


def test_a_finished_checkpoint_moves_what_is_expected_by_how_sure_it_is() -> None:
    law = Calibration((0.001, 0.01, 0.1), (0.001, 0.01, 0.1), (0.1, 0.1, 0.1))
    sure = law.refined(CheckpointKl(0.02, 0.03, 1e-6))
    assert sure.kl(0.02) == pytest.approx(0.03)
    assert 0.01 < sure.kl(0.01) < 0.015
    assert sure.kl(0.001) / 0.001 < sure.kl(0.01) / 0.01 < 1.5
    assert sure.interval_95(0.02) == pytest.approx((0.03, 0.03), rel=1e-4)
    as_sure = law.refined(CheckpointKl(0.02, 0.03, 0.1))
    assert as_sure.kl(0.02) == pytest.approx(0.02 * np.sqrt(1.5))
    vague = law.refined(CheckpointKl(0.02, 0.03, 10))
    assert vague.kl(0.02) == pytest.approx(0.02, rel=1e-3)
    alone = UNCALIBRATED.refined(CheckpointKl(0.02, 0.03, 0.1))
    assert (alone.kl(0.02), alone.kl(0.2)) == pytest.approx((0.03, 0.3))
    assert law.refined(CheckpointKl(0.0, 0.03)) == law


@pytest.mark.parametrize(
    ("costs", "measured", "errors"),
    [((1, 2), (2, 1), ()), ((2, 1), (1, 2), ()), ((1,), (), ()), ((1, 2), (1, 2), (0.1,))],
)
def test_what_does_not_rise_is_refused(
    costs: tuple[float, ...], measured: tuple[float, ...], errors: tuple[float, ...]
) -> None:
    with pytest.raises(InvalidRequestError, match="as many of each"):
        Calibration(costs, measured, errors)


def test_the_choice_stays_and_the_certificate_is_of_the_kl_to_expect(
    measurement: Measurement,
) -> None:
    line = frontier(measurement)
    budget = line.breakpoints[len(line.breakpoints) // 2].file_bytes + 100
    request = AllocationRequest(budget=budget)
    plain = allocate(measurement, request)
    costs = [point.kl_nats_per_token for point in line.breakpoints if point.kl_nats_per_token]
    low, high = min(costs), max(costs)
    law = Calibration((low, high), (low, 3 * high), (0.1, 0.1))
    calibrated = replace(measurement, calibration=law)
    answer = allocate(calibrated, request)
    assert answer.formats == plain.formats
    assert answer.predicted_kl_nats_per_token == law.kl(plain.predicted_kl_nats_per_token)
    assert answer.predicted_kl_nats_per_token == calibrated.predicted_kl(answer.formats)
    assert answer.bound == law.kl(plain.bound) <= answer.predicted_kl_nats_per_token
    assert answer.gap == pytest.approx(1 - answer.bound / answer.predicted_kl_nats_per_token)
    slope = law.slope(plain.predicted_kl_nats_per_token)
    assert slope != pytest.approx(1, rel=0.01)
    assert answer.shadow_price_nats_per_byte == plain.shadow_price_nats_per_byte * slope
    assert answer.interval_95 == law.interval_95(plain.predicted_kl_nats_per_token)
    nested = allocate_nested(calibrated, [request])
    assert nested[0].predicted_kl_nats_per_token == answer.predicted_kl_nats_per_token
    other = frontier(calibrated)
    for one, two in zip(line.breakpoints, other.breakpoints, strict=True):
        assert two == (one.file_bytes, law.kl(one.kl_nats_per_token))
    for mark, marked in zip(line.uniform, other.uniform, strict=True):
        assert marked.kl_nats_per_token == law.kl(mark.kl_nats_per_token)
    many = solve_budgets(calibrated, [budget], relative_gap=0)
    assert many[0].kl_nats_per_token == pytest.approx(answer.predicted_kl_nats_per_token)
    assert Measurement.from_json(calibrated.to_json()) == calibrated
    layout = plan_checkpoint(measurement.inventory)
    manifest = Manifest.build(calibrated, layout, request, answer)
    parts = sum(choice.kl_nats for choice in manifest.modules.values())
    assert parts == pytest.approx(manifest.certificate.predicted_kl_nats_per_token)
    assert manifest.certificate.predicted_kl_interval_95 == answer.interval_95
