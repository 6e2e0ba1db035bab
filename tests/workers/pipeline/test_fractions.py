"""How far a task is: from 0 to 1, never falling, whatever becomes known on the way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitbudget.app.contract.steps import Step, Work
from bitbudget.workers.pipeline.fractions import Fractions


def test_steps_share_the_whole_by_their_weights() -> None:
    work = Work(weights=10**9)
    fractions = Fractions([Step.INVENTORY, Step.MEASURE, Step.ALLOCATE], work)
    fractions.begin(Step.INVENTORY)
    fractions.advance(1, 1)
    small = fractions.of_job
    assert small == pytest.approx(
        Step.INVENTORY.seconds(work)
        / sum(step.seconds(work) for step in (Step.INVENTORY, Step.MEASURE, Step.ALLOCATE))
    )
    fractions.begin(Step.MEASURE)
    assert fractions.of_job == small
    fractions.advance(1, 2)
    assert small < fractions.of_job < 0.6
    fractions.begin(Step.ALLOCATE)
    fractions.end()
    assert fractions.of_job == pytest.approx(1)


def test_parts_of_a_step_follow_each_other() -> None:
    fractions = Fractions([Step.MEASURE], Work())
    fractions.begin(Step.MEASURE)
    told = []
    for share in (0.25, 0.5):
        with fractions.part(share):
            for done in (0, 1, 2):
                fractions.advance(done, 2)
                told.append(fractions.of_step)
    fractions.advance(0, 2)
    assert told == [0, 0.125, 0.25, 0.25, 0.5, 0.75]
    assert fractions.of_step == 0.75
    fractions.advance(1, 2)
    assert fractions.of_step == 0.875
    fractions.advance(2, 2)
    assert fractions.of_step == 1


def test_parts_of_a_part_are_shares_of_it() -> None:
    fractions = Fractions([Step.MEASURE], Work())
    fractions.begin(Step.MEASURE)
    with fractions.part(0.2):
        pass
    with fractions.part(0.8):
        told = []
        for share in (0.25, 0.75):
            with fractions.part(share):
                fractions.advance(1, 2)
                told.append(fractions.of_step)
    assert told == pytest.approx([0.3, 0.7])
    assert fractions.of_step == pytest.approx(1)


def test_a_step_that_is_passed_over_leaves_its_share_to_those_to_come() -> None:
    fractions = Fractions(list(Step), Work(recover_seconds=1e6))
    fractions.begin(Step.QUANTIZE)
    fractions.end()
    before = fractions.of_job
    fractions.work = replace(fractions.work, recover_seconds=0)
    fractions.begin(Step.EVALUATE)
    assert fractions.of_job == before
    fractions.begin(Step.BENCHMARK)
    fractions.end()
    assert fractions.of_job == pytest.approx(1)


def test_no_step_begins_again_or_runs_backwards() -> None:
    fractions = Fractions([Step.FETCH, Step.MEASURE], Work())
    fractions.begin(Step.MEASURE)
    for step in (Step.MEASURE, Step.FETCH, Step.ALLOCATE):
        with pytest.raises(ValueError, match=f"the step {step} begins, and those to come are none"):
            fractions.begin(step)
