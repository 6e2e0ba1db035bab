from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitbudget.app.core.allocate import allocate, smallest_bytes
from bitbudget.app.core.calibration import UNCALIBRATED, Calibration
from bitbudget.app.core.candidates import Rules, decision_groups
from bitbudget.app.core.errors import InfeasibleBudgetError, InvalidRequestError
from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.measurement import Encoder, Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.sensitivity import Sensitivity

EMBEDDING = "model.embed_tokens"
QUERY = "model.layers.0.self_attn.q_proj"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 1))
def test_equals_the_best_of_all_choices(measurement: Measurement, fraction: float) -> None:
    names = ("affine2g32", "affine3g64", "affine4g128", "affine6g32", "mxfp4", "keep")
    rules = Rules(formats=tuple(parse_format(name) for name in names))
    groups = decision_groups(measurement, rules)
    layout = plan_checkpoint(measurement.inventory)
    least = smallest_bytes(measurement, rules)
    most = layout.fixed_bytes + sum(max(group.bytes) for group in groups)
    budget = least + int(fraction * (most - least))
    allocation = allocate(measurement, AllocationRequest(budget=budget, formats=rules.formats))
    best = min(
        sum(group.costs[i] for group, i in zip(groups, choice, strict=True))
        for choice in itertools.product(*(range(len(g.formats)) for g in groups))
        if layout.fixed_bytes + sum(g.bytes[i] for g, i in zip(groups, choice, strict=True))
        <= budget
    )
    assert allocation.file_bytes == layout.file_bytes(allocation.formats) <= budget
    assert allocation.predicted_kl_nats_per_token == pytest.approx(best, rel=1e-12)
    assert allocation.bound <= best * (1 + 1e-12)
    assert allocation.status == "optimal"
    assert allocation.shadow_price_nats_per_byte >= 0


def test_an_infeasible_budget_names_the_smallest_bytes(measurement: Measurement) -> None:
    least = smallest_bytes(measurement, Rules())
    with pytest.raises(InfeasibleBudgetError) as caught:
        allocate(measurement, AllocationRequest(budget=least - 1))
    assert caught.value.minimum_bytes == least
    exact = allocate(measurement, AllocationRequest(budget=least))
    assert exact.file_bytes == least
    assert exact.slack_bytes == 0


def test_min_safe_is_the_smallest_above_the_floor(measurement: Measurement) -> None:
    safe = allocate(measurement, AllocationRequest(min_safe=True))
    assert safe.file_bytes == safe.budget_bytes == smallest_bytes(measurement, Rules())
    for path, format_ in safe.formats.items():
        assert measurement.curve(path).point(format_).sqnr_db >= 9


def test_below_the_safe_size_only_without_the_floor_and_says_so(
    measurement: Measurement,
) -> None:
    budget = smallest_bytes(measurement, Rules()) - 1
    allocation = allocate(measurement, AllocationRequest(budget=budget, sqnr_floor_db=0))
    assert allocation.file_bytes <= budget
    assert "not vouched for" in allocation.notes[0]


@pytest.mark.parametrize(
    ("encoder", "sensitivity", "calibration", "said"),
    [
        (Encoder.GPTQ, Sensitivity.FISHER, UNCALIBRATED, 1),
        (Encoder.YAQA, Sensitivity.FISHER, UNCALIBRATED, 1),
        (Encoder.CAREFUL, Sensitivity.FISHER, UNCALIBRATED, 0),
        (Encoder.YAQA, Sensitivity.WEIGHTS, UNCALIBRATED, 0),
        (Encoder.YAQA, Sensitivity.FISHER, Calibration((0.01,), (0.02,), (0.1,)), 0),
    ],
)
def test_a_prediction_for_the_tokens_that_codes_fit_is_called_optimistic(
    measurement: Measurement,
    encoder: Encoder,
    sensitivity: Sensitivity,
    calibration: Calibration,
    said: int,
) -> None:
    known = replace(
        measurement, encoder=encoder, sensitivity=sensitivity, calibration=calibration, tokens=512
    )
    notes = allocate(known, AllocationRequest(min_safe=True)).notes
    told = [note for note in notes if "several times the predicted KL" in note]
    assert len(told) == said
    assert not said or "512 tokens" in told[0]


def test_the_veto_follows_the_encoder(measurement: Measurement) -> None:
    careful = replace(measurement, encoder=Encoder.CAREFUL)
    assert smallest_bytes(careful, Rules(sqnr_floor_db=10)) >= smallest_bytes(
        measurement, Rules(sqnr_floor_db=10)
    )


def test_a_vetoed_module_keeps_its_best_format(measurement: Measurement) -> None:
    formats = (parse_format("affine2g32"), parse_format("affine2g128"))
    groups = decision_groups(measurement, Rules(formats=formats, sqnr_floor_db=30))
    by_name = {group.name: group.formats for group in groups}
    assert by_name[QUERY] == (parse_format("affine2g32"),)
    assert by_name["model.layers.0.mlp.down_proj"] == (KEEP,)


def test_pins_and_floors_hold(measurement: Measurement) -> None:
    request = AllocationRequest(
        budget="1MiB",
        pins={EMBEDDING: parse_format("affine3g64")},
        floors={"*.q_proj": 6},
    )
    allocation = allocate(measurement, request)
    assert allocation.formats[EMBEDDING] == parse_format("affine3g64")
    query = allocation.formats[QUERY]
    assert query == KEEP or query.bits >= 6


@pytest.mark.parametrize(
    ("pins", "floors", "named"),
    [
        ({"lm_head": "affine4g64"}, {}, "no module of that name"),
        ({}, {"*.k_proj": 4}, "no module of that name"),
        ({"*embed*": "affine4g64", "model.embed*": "affine8g64"}, {}, "one format"),
        ({EMBEDDING: "affine3g64"}, {"*": 4}, "floor of 4 bits"),
        ({"*down_proj": "affine4g64"}, {}, "divides the input width"),
    ],
)
def test_contradictions_are_named(
    measurement: Measurement, pins: dict[str, str], floors: dict[str, int], named: str
) -> None:
    request = AllocationRequest.model_validate({"budget": "1MiB", "pins": pins, "floors": floors})
    with pytest.raises(InvalidRequestError, match=named):
        allocate(measurement, request)


def test_modules_of_a_group_share_their_format(measurement: Measurement) -> None:
    modules = tuple(
        replace(m, decision_group="tied") if m.path in (EMBEDDING, QUERY) else m
        for m in measurement.inventory.modules
    )
    inventory = replace(measurement.inventory, modules=modules)
    tied = replace(measurement, inventory=inventory)
    least = smallest_bytes(tied, Rules())
    for budget in range(least, least + 60_000, 9_973):
        allocation = allocate(tied, AllocationRequest(budget=budget))
        assert allocation.formats[EMBEDDING] == allocation.formats[QUERY]
        assert allocation.file_bytes == plan_checkpoint(inventory).file_bytes(allocation.formats)
