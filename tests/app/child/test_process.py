"""The driver of the child process: however the child ends, the last event says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from bitbudget.app.child.process import ChildProcess
from bitbudget.app.child.tail import Tail
from bitbudget.app.contract.reports import FitResult
from bitbudget.app.contract.tasks import FitTask


def test_a_task_is_followed_to_its_result(sample_model: Path, tmp_path: Path) -> None:
    with ChildProcess() as child:
        child.give(FitTask(home=str(tmp_path), model=str(sample_model)))
        *before, last = child.events()
    assert [event.kind for event in before if event.kind == "failed"] == []
    assert last.kind == "finished"
    assert isinstance(last.result, FitResult)
    assert not psutil.pid_exists(child.pid)


def test_a_killed_child_says_how_it_ended() -> None:
    with ChildProcess() as child:
        os.kill(child.pid, signal.SIGKILL)
        (last,) = child.events()
    assert last.kind == "failed"
    assert last.problem.type == "urn:bitbudget:problem:child-died"
    assert "by signal 9" in last.problem.detail
    assert "more memory than there is" in last.problem.detail


def test_a_child_that_computed_for_too_long_blames_the_model() -> None:
    with ChildProcess() as child:
        os.kill(child.pid, signal.SIGXCPU)
        (last,) = child.events()
    assert last.kind == "failed"
    assert (last.problem.type, last.problem.status) == ("urn:bitbudget:problem:too-slow", 422)
    assert "more processor time than any sound model needs" in last.problem.detail


def test_a_child_that_takes_too_long_is_stopped(tmp_path: Path, sample_model: Path) -> None:
    with ChildProcess(most_seconds=0.05) as child:
        child.give(FitTask(home=str(tmp_path), model=str(sample_model)))
        *_, last = child.events()
        assert last.kind == "failed"
        assert (last.problem.status, last.problem.title) == (503, "Child overdue")
        assert not psutil.pid_exists(child.pid)


def test_only_the_end_of_a_long_complaint_is_kept_and_cleaned() -> None:
    tail = Tail()
    for number in range(10_000):
        tail.add(f"line {number}\r\n".encode())
    tail.add(b"\x1b[31mred\x00\xff")
    assert len(tail.text()) <= 2000
    assert tail.text().endswith("line 9999\n\n[31mred\N{REPLACEMENT CHARACTER}")
