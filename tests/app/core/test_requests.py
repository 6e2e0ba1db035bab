from __future__ import annotations

import pytest
from pydantic import ValidationError

from bitbudget.app.core.requests import AllocationRequest, JobRequest


def test_a_budget_must_be_stated() -> None:
    with pytest.raises(ValidationError, match="state a budget"):
        AllocationRequest()


@pytest.mark.parametrize(
    "stated", [{"budget": "1GiB"}, {"device": "m4-pro-24gb"}, {"min_safe": True}]
)
def test_each_way_to_state_it(stated: dict[str, object]) -> None:
    assert AllocationRequest.model_validate(stated)


def test_budgets_are_bytes() -> None:
    assert AllocationRequest(budget="1GiB").budget_bytes == 2**30
    assert AllocationRequest(min_safe=True).budget_bytes is None


@pytest.mark.parametrize("extra", [{"bugdet": 1}, {"model": ""}, {"seed": -1}, {"budget": "x"}])
def test_bad_jobs_are_refused(extra: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JobRequest.model_validate({"model": "org/name", "budget": "1GB", **extra})
