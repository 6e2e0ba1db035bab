"""The time that is left, from a plan and how fast it goes."""

from __future__ import annotations

import pytest

from bitbudget.workers.pipeline.pace import Pace


def walk(pace: Pace, seconds: float, factor: float) -> None:
    """Let `seconds` of the plan pass, each taking `factor` seconds."""
    for done in range(int(seconds) + 1):
        pace.see(float(done), 1000 + done * factor)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 4.0])
def test_a_tenth_tells_what_the_rest_takes(factor: float) -> None:
    pace = Pace()
    walk(pace, 100, factor)
    assert pace.seconds_left(900) == pytest.approx(900 * factor, rel=0.25)


def test_what_a_cache_held_says_nothing_of_the_pace() -> None:
    pace = Pace()
    pace.see(0.0, 0.0)
    pace.see(500.0, 0.5)
    for done in range(1, 101):
        pace.see(500.0 + done, 0.5 + 2 * done)
    assert pace.seconds_left(400) == pytest.approx(800, rel=0.25)


def test_before_anything_is_seen_the_plan_counts() -> None:
    assert Pace().seconds_left(40) == pytest.approx(40)
    assert Pace().seconds_left(0) == 0
