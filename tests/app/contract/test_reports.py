"""Reports keep the JSON that they are read from and refuse what no page could show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from bitbudget.app.contract.messages import storable_text
from bitbudget.app.contract.reports import JobResult, Recovery

_DIGEST = "0" * 64
_RESULT: dict[str, Any] = {
    "sha256": _DIGEST,
    "file_bytes": 10,
    "budget_bytes": 12,
    "bits_per_weight": 4.5,
    "predicted_kl_nats_per_token": 0.5,
    "predicted_kl_interval_95": None,
    "bound": 0.4,
    "gap": 0.2,
    "shadow_price_nats_per_byte": 1e-9,
    "status": "optimal",
    "solver": "mckp",
    "stopped_by": "",
    "notes": ["a note"],
    "manifest": "/m/manifest.json",
    "measurement": "/m/measurement.json",
    "measurement_key": _DIGEST,
    "checkpoint": None,
}


def test_a_result_is_written_as_it_was_read() -> None:
    """What may be null stays, what a job did not come to is left out."""
    assert JobResult.model_validate(_RESULT).model_dump(mode="json") == _RESULT
    few_bits = _RESULT | {"low_bits": {"bits_per_weight": 2.5, "skipped": "too large"}}
    assert json.loads(JobResult.model_validate(few_bits).to_json()) == few_bits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gap", float("inf")),
        ("gap", float("nan")),
        ("gap", "0.2"),
        ("gap", True),
        ("gap", 10**400),
        ("file_bytes", 2**60),
        ("file_bytes", -1),
        ("solver", "m\x00ckp"),
        ("solver", "\ud800"),
        ("solver", "x" * 10_000),
        ("notes", ["x"] * 10_000),
        ("low_bits", {"bits_per_weight": 2.5}),
        ("baseline", {}),
        ("surprise", 1),
    ],
)
def test_what_no_page_could_show_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        JobResult.model_validate(_RESULT | {field: value})


def test_an_unknown_way_of_recovering_is_refused() -> None:
    with pytest.raises(ValidationError, match="how"):
        Recovery.model_validate({"how": "prayer"})


def test_long_text_is_cut_in_the_middle_and_cleaned() -> None:
    assert storable_text("a\x00b\x1b[31m\ud800") == "a�b�[31m�"
    assert storable_text("x" * 30 + "the end", 20) == "xxxxxxx...xxxthe end"
