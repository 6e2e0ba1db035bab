"""What an effort decides, and what a request may state otherwise."""

from __future__ import annotations

import pytest

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.effort import EFFORTS, Effort, calibration_windows, efforts_up_to
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.measurement import measurement_key
from bitbudget.app.core.recover import Recover
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.core.sensitivity import Sensitivity


def request(**fields: object) -> JobRequest:
    return JobRequest.model_validate({"model": "m", "budget": 1, **fields})


@pytest.mark.parametrize("effort", Effort)
def test_what_a_request_leaves_out_follows_from_its_effort(effort: Effort) -> None:
    plan = EFFORTS[effort]
    made = request(effort=effort.value)
    assert (made.encoder, made.recover) == (plan.encoder, plan.recover)
    task = MeasureTask.model_validate({"home": "h", "model": "m", "effort": effort.value})
    assert task.encoder is plan.encoder


def test_what_a_request_states_counts_more_than_its_effort() -> None:
    made = request(effort="thorough", encoder="gptq", recover="none")
    assert (made.encoder, made.recover) == (Encoder.GPTQ, Recover.NONE)
    assert JobRequest.model_validate_json(made.model_dump_json()) == made


def test_a_limit_of_time_asks_for_all_efforts_unless_one_is_stated() -> None:
    assert request(max_minutes=5).effort is Effort.THOROUGH
    capped = request(max_minutes=5, effort="standard")
    assert capped.effort is Effort.STANDARD
    quick = capped.at_effort(Effort.QUICK)
    assert (quick.encoder, quick.max_minutes) == (Encoder.CAREFUL, None)
    assert request(max_minutes=5, encoder="gptq").at_effort(Effort.QUICK).encoder is Encoder.GPTQ
    assert efforts_up_to(Effort.STANDARD) == (Effort.STANDARD, Effort.QUICK)


def test_an_unknown_effort_is_named() -> None:
    with pytest.raises(ValueError, match="quick"):
        request(effort="some")


def test_measurements_of_two_efforts_are_two() -> None:
    keys = {
        measurement_key("d", Encoder.YAQA, Sensitivity.FISHER, effort=effort) for effort in Effort
    }
    assert len(keys) == len(Effort)


@pytest.mark.parametrize("weights", [10**5, 10**8, 10**11])
def test_more_effort_measures_on_more_tokens(weights: int) -> None:
    tokens = [calibration_windows(e, weights) * EFFORTS[e].window_tokens for e in Effort]
    assert tokens == sorted(tokens)
    assert len(set(tokens)) == len(Effort)
    assert all(
        EFFORTS[e].fewest_tokens <= count <= EFFORTS[e].most_tokens
        for e, count in zip(Effort, tokens, strict=True)
    )
