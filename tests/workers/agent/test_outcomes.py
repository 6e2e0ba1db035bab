"""Which ends of an attempt are final, and which are tried again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bitbudget.app.contract.leases import LeaseOutcome
from bitbudget.app.contract.problems import Problem
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.agent.lease import outcome_of
from bitbudget.workers.child.task import problem_of

FINAL, AGAIN = LeaseOutcome.FAILED, LeaseOutcome.CRASHED


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidModelError(where="x", found="a", expected="b", remedy="c"), FINAL),
        (KeyError("hidden_size"), FINAL),
        (ZeroDivisionError("a configuration that nobody foresaw"), FINAL),
        (MemoryError(), FINAL),
        (OSError(5, "Input/output error"), AGAIN),
        (OSError(28, "No space left on device"), AGAIN),
        (sqlite3.OperationalError("disk I/O error"), AGAIN),
        (sqlite3.OperationalError("database or disk is full"), AGAIN),
    ],
)
def test_what_the_input_is_at_fault_for_is_not_tried_again(
    error: Exception, outcome: LeaseOutcome, tmp_path: Path
) -> None:
    assert outcome_of(problem_of(error, tmp_path)) is outcome


@pytest.mark.parametrize(
    ("slug", "status", "outcome"),
    [
        ("upload-refused", 422, FINAL),
        ("upload-refused", 413, FINAL),
        ("upload-refused", 500, AGAIN),
        ("child-died", 500, AGAIN),
        ("worker-trouble", 500, AGAIN),
    ],
)
def test_what_the_machine_is_at_fault_for_is_tried_again(
    slug: str, status: int, outcome: LeaseOutcome
) -> None:
    assert outcome_of(Problem.about(slug, "x", status=status)) is outcome
