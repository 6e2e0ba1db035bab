"""Hostile manifests, measurements and job requests, through the functions that read them."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.mckp import rows, solve_problem
from bitbudget.app.core.problem import NamedProblem
from bitbudget.app.core.problem_arrays import read_problem
from bitbudget.app.core.requests import JobRequest
from tests.hostile import manifest_cases, problem_cases, request_cases
from tests.hostile.conftest import Refused

pytestmark = pytest.mark.hostile

assert rows  # imported here, so that loading OR-Tools is no part of a case's second


def test_the_manifest_that_the_cases_damage_is_sound() -> None:
    manifest = Manifest.from_bytes(json.dumps(manifest_cases.MANIFEST).encode())
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@pytest.mark.parametrize(
    "data", [pytest.param(data, id=name) for name, data in manifest_cases.cases()]
)
def test_a_hostile_manifest_is_a_clear_error(data: bytes, refused: Refused) -> None:
    with refused():
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "data", [pytest.param(data, id=name) for name, data in request_cases.cases()]
)
def test_a_hostile_job_request_is_refused_with_its_place(data: bytes) -> None:
    with pytest.raises((ValidationError, InvalidRequestError)) as caught:
        JobRequest.model_validate_json(data)
    assert str(caught.value)


def _solve(problem: NamedProblem) -> float:
    return solve_problem(problem.problem, problem.budget).objective


def test_the_problems_that_the_cases_damage_are_sound() -> None:
    assert _solve(read_problem(json.dumps(problem_cases.PROBLEM).encode())) == 1.5
    assert _solve(read_problem(problem_cases.pack(problem_cases.ARRAYS))) == 1.5


@pytest.mark.parametrize(
    "data", [pytest.param(data, id=name) for name, data in problem_cases.cases()]
)
def test_a_hostile_problem_is_a_clear_error(data: bytes, refused: Refused) -> None:
    with refused():
        _solve(read_problem(data))
