"""Durations before anything is done: they follow effort, size and speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bitbudget.app.contract.durations import comparing_texts_s
from bitbudget.app.contract.estimate import effort_seconds
from bitbudget.app.contract.home import Folder
from bitbudget.app.contract.stored_speed import read_speed, write_speed
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.machine_speed import TYPICAL, MachineSpeed
from bitbudget.app.core.requests import Deliver

SMOLLM2 = 134_515_008
MEASURED_ON = MachineSpeed(1.25e11, 3.3e8, 1e9, threads=2)


def test_more_effort_and_more_weights_take_longer() -> None:
    for deliver in Deliver:
        small, large = (effort_seconds(w, TYPICAL, deliver) for w in (10**7, 10**9))
        assert list(large.values()) == sorted(large.values())
        assert all(small[effort] < large[effort] for effort in Effort)


def test_a_faster_machine_takes_less() -> None:
    fast = replace(
        TYPICAL,
        flops_per_second=10 * TYPICAL.flops_per_second,
        coded_per_second=10 * TYPICAL.coded_per_second,
    )
    for effort, seconds in effort_seconds(10**9, TYPICAL).items():
        assert effort_seconds(10**9, fast)[effort] < seconds / 4


def test_a_quick_manifest_takes_what_it_was_measured_to_take() -> None:
    assert effort_seconds(SMOLLM2, MEASURED_ON)[Effort.QUICK] == pytest.approx(46.6, rel=0.25)


def test_a_comparison_of_texts_takes_what_it_was_measured_to_take() -> None:
    """7.5 processor seconds for the sample, 64 tokens after a prompt of 4, at these rates."""
    speed = replace(
        MEASURED_ON, coded_per_second=3.87e8, dense_per_second=1.5e9, packed_per_second=1.7e8
    )
    assert comparing_texts_s(5_767_168, 6, 68, speed) == pytest.approx(7.5, rel=0.25)


def test_a_speed_is_kept_and_what_is_no_speed_is_not_taken(tmp_path: Path) -> None:
    assert read_speed(tmp_path) is None
    write_speed(tmp_path / "home", TYPICAL)
    assert read_speed(tmp_path / "home") == TYPICAL
    Folder.SPEED.under(tmp_path).mkdir()
    (Folder.SPEED.under(tmp_path) / "speed.json").write_text('{"flops_per_second": -1}')
    assert read_speed(tmp_path) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (41, "41 s"), (200, "3 min"), (9000, "2.5 h")]
)
def test_durations_are_said_in_the_largest_unit(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
