"""What errors cost together, and the certificate of an allocation that was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.relinearization import (
    GroupCosts,
    anchored,
    bits_per_weight,
    judged,
    relinearized,
)
from bitbudget.app.core.requests import AllocationRequest

BUDGET = AllocationRequest(budget=120_000, sqnr_floor_db=0)
QUERY = "model.layers.0.self_attn.q_proj"


def costs(measurement: Measurement, formats: dict[str, Format]) -> dict[str, float]:
    return {c.path: c.point(formats[c.path]).kl_nats for c in measurement.curves}


def chosen(measurement: Measurement) -> dict[str, Format]:
    return dict(allocate(measurement, BUDGET).formats)


def test_ends_that_agree_change_nothing(measurement: Measurement) -> None:
    formats = chosen(measurement)
    known = costs(measurement, formats)
    seen = GroupCosts(sum(known.values()), alone=known, beside=known)
    assert seen.disagreement == 1
    again = relinearized(measurement, formats, seen, 0.5)
    for curve, other in zip(again.curves, measurement.curves, strict=True):
        for point, before in zip(curve.points, other.points, strict=True):
            assert point.kl_nats == pytest.approx(before.kl_nats)


def test_a_dearer_module_gets_more_bytes_and_scales_are_bounded(measurement: Measurement) -> None:
    formats = chosen(measurement)
    known = costs(measurement, formats)
    assert formats[QUERY] != KEEP
    seen = GroupCosts(1.0, alone=known, beside={**known, QUERY: 100 * known[QUERY]})
    beside = relinearized(measurement, formats, seen, 1.0)
    assert costs(beside, formats)[QUERY] == pytest.approx(4 * known[QUERY])
    halfway = relinearized(
        measurement, formats, replace(seen, beside={**known, QUERY: 2 * known[QUERY]}), 0.5
    )
    assert costs(halfway, formats)[QUERY] == pytest.approx(1.5 * known[QUERY])
    again = chosen(beside)
    assert (
        beside.curve(QUERY).point(again[QUERY]).t2 <= beside.curve(QUERY).point(formats[QUERY]).t2
    )


def test_disagreement_is_the_ratio_of_the_sums() -> None:
    seen = GroupCosts(1.0, {"a": 0.2, "b": 0.1}, {"a": 0.5, "b": 0.4})
    assert seen.disagreement == pytest.approx(3)
    assert GroupCosts(1.0, {"a": 0.9}, {"a": 0.3}).disagreement == pytest.approx(3)
    assert GroupCosts(0.0, {"a": 0.0}, {"a": 0.0}).disagreement == 1
    assert GroupCosts(0.1, {"a": 0.0}, {"a": 0.1}).disagreement == float("inf")


def test_a_measured_allocation_is_predicted_as_measured(measurement: Measurement) -> None:
    best = allocate(measurement, BUDGET)
    uniform = {
        m.path: parse_format("affine2g32")
        if parse_format("affine2g32") in m.legal_formats()
        else KEEP
        for m in measurement.inventory.modules
    }
    curves = anchored(measurement, uniform, 0.75)
    assert sum(costs(curves, uniform).values()) == pytest.approx(0.75)
    optimum = allocate(curves, BUDGET)
    found = judged(curves, optimum, replace(best, formats=uniform, notes=("measured",)))
    assert found.predicted_kl_nats_per_token == pytest.approx(0.75)
    assert found.bound == optimum.bound < 0.75
    assert found.gap == pytest.approx((0.75 - optimum.bound) / 0.75)
    assert found.status == "feasible"
    same = judged(curves, optimum, replace(best, notes=("measured",)))
    assert same.status == "optimal"
    assert same.notes == ("measured",)


def test_bits_count_only_what_can_be_quantized(measurement: Measurement) -> None:
    inventory = measurement.inventory
    four = parse_format("affine4g64")
    formats = {m.path: four if four in m.legal_formats() else KEEP for m in inventory.modules}
    assert KEEP in formats.values()
    assert bits_per_weight(inventory, formats) == pytest.approx(4.5)
