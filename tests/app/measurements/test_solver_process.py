"""Searches in a process of their own: what comes back, and what does not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial

import psutil
import pytest

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.http.errors import UnavailableError
from bitbudget.app.measurements import solver_process
from bitbudget.app.measurements.solver_process import SolverProcess, ask_a_process
from bitbudget.app.measurements.solving import Solved, limited, solve
from tests.support.many_modules import IN_CP_SAT, many_modules


@pytest.fixture(scope="module")
def process() -> Iterator[SolverProcess]:
    process = SolverProcess()
    yield process
    process.close()


def asked(process: SolverProcess, measurement: Measurement, budget: int) -> Solved:
    work = partial(solve, request=AllocationRequest(budget=budget))
    return process.ask(10.0, lambda: False, work, measurement)


def test_the_answer_is_that_of_a_search_here(
    process: SolverProcess, measurement: Measurement
) -> None:
    assert asked(process, measurement, 300_000) == solve(
        measurement, AllocationRequest(budget=300_000)
    )
    assert psutil.Process(process.pid).nice() > os.nice(0)


def test_an_error_comes_back_whole(process: SolverProcess, measurement: Measurement) -> None:
    with pytest.raises(InfeasibleBudgetError) as caught:
        asked(process, measurement, 10)
    assert caught.value.budget_bytes == 10
    assert asked(process, measurement, 300_000)


def test_a_process_that_died_is_told_and_replaced(measurement: Measurement) -> None:
    process = SolverProcess()
    psutil.Process(process.pid).kill()
    with pytest.raises(UnavailableError, match="process that solves"):
        asked(process, measurement, 300_000)
    assert not process.is_alive


def test_a_search_that_nobody_waits_for_is_stopped_and_its_process_kept(
    process: SolverProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a search may stop late: here it is not killed for that."""
    monkeypatch.setattr(solver_process, "_STOP_SECONDS", 60.0)
    measured = many_modules(300)
    assert asked(process, measured, 3_100_000)
    searching = psutil.Process(process.pid)
    idle = searching.num_threads()
    work = partial(solve, request=AllocationRequest.model_validate(IN_CP_SAT))
    began = time.monotonic()
    found = process.ask(600.0, lambda: searching.num_threads() > idle, work, measured)
    assert time.monotonic() - began < 30, "and not the minute that the search takes"
    assert found.manifest.file_bytes <= IN_CP_SAT["budget"]
    assert process.is_alive
    assert asked(process, measured, 3_200_000)


def test_searches_that_are_limited_run_elsewhere_and_outlive_a_killed_process(
    process: SolverProcess, measurement: Measurement
) -> None:
    with limited(10.0, lambda: False, ask_a_process):
        assert solve(measurement, AllocationRequest(budget=300_000))
        idle = [child for child in psutil.Process().children() if solves(child)]
        others = [child for child in idle if child.pid != process.pid]
        assert others
        for child in others:
            child.kill()
            child.wait()
        assert solve(measurement, AllocationRequest(budget=310_000))


def solves(child: psutil.Process) -> bool:
    return "bitbudget.app.measurements.solver" in child.cmdline()
