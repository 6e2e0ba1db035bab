"""Commands say what differs from the defaults, and no more."""

from __future__ import annotations

from bitbudget.app.core.commands import other_budget_command, run_command
from bitbudget.app.core.requests import JobRequest


def test_a_plain_request_is_a_plain_command() -> None:
    request = JobRequest(model="org/name", budget="5.5GiB")
    assert run_command(request, "OUT") == "bitbudget run org/name --budget 5.5GiB -o OUT"
    assert other_budget_command(request) == "bitbudget allocate org/name --budget ..."


def test_another_budget_is_asked_of_the_same_measurement() -> None:
    request = JobRequest(
        model="a folder/m", budget="3MB", effort="quick", rotation="folded", pins={"*.v": "keep"}
    )
    how = "'a folder/m' --effort quick --rotation folded"
    assert other_budget_command(request) == f"bitbudget allocate {how} --budget ..."
    assert run_command(request, "OUT").endswith("--rotation folded --pin '*.v=keep' -o OUT")
