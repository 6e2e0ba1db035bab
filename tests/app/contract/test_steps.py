"""The declared steps: their order is one that works, and a request names those it goes through."""

from __future__ import annotations

import pytest

from bitbudget.app.contract.steps import Step, Work, steps_of
from bitbudget.app.core.requests import JobRequest


def test_every_step_finds_what_it_needs() -> None:
    made: set[str] = set()
    for step in Step:
        assert set(step.needs) <= made, step
        made |= set(step.makes)
        assert step.label


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "fetch inventory measure allocate"),
        ({"rotation": "auto"}, "fetch inventory rotate measure allocate"),
        (
            {"effort": "quick", "deliver": "checkpoint"},
            "fetch inventory measure allocate quantize evaluate",
        ),
        ({"relinearize": True}, "fetch inventory measure allocate relinearize"),
        ({"recover": "scales"}, "fetch inventory measure allocate"),
        (
            {"recover": "scales", "deliver": "checkpoint"},
            "fetch inventory measure allocate quantize recover evaluate benchmark",
        ),
    ],
)
def test_a_step_that_a_request_does_not_want_is_not_among_its_steps(
    fields: dict[str, object], expected: str
) -> None:
    request = JobRequest.model_validate({"model": "m", "budget": 1, **fields})
    assert " ".join(steps_of(request)) == expected


def test_weights_grow_with_the_work() -> None:
    small, large = Work(weights=10**6), Work(weights=10**9)
    for step in Step:
        assert 0 < step.seconds(small) <= step.seconds(large)
    assert Step.MEASURE.seconds(large) > Step.MEASURE.seconds(Work(weights=10**9, runs=False))
