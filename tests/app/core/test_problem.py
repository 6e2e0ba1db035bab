from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitbudget.app.core.errors import InfeasibleBudgetError, InvalidRequestError
from bitbudget.app.core.mckp import solve_problem
from bitbudget.app.core.problem import NamedProblem, read_problem_json
from bitbudget.app.core.problem_arrays import read_problem
from tests.app.core.mckp.instances import Options, brute_force, groups_of_options

SCHEMA = json.loads(
    (Path(__file__).resolve().parents[3] / "docs" / "problem.schema.json").read_text()
)


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "budget": 10,
        "groups": [
            {"name": "a", "options": [option("x", 3, 2.0), option("y", 6, 1.0)]},
            {"name": "b", "options": [option("x", 4, 3.0), option("y", 8, 0.5)]},
        ],
        "rows": [{"name": "speed", "limit": 9, "weights": [[1, 2], [3, 8]]}],
    }
    return base | changes


def option(name: Any, nbytes: Any, cost: Any) -> dict[str, Any]:
    return {"name": name, "bytes": nbytes, "cost": cost}


def read(value: dict[str, Any]) -> NamedProblem:
    return read_problem(json.dumps(value).encode())


def test_reads_what_the_schema_describes() -> None:
    jsonschema.validate(document(), SCHEMA)
    named = read(document())
    solution = solve_problem(named.problem, named.budget)
    assert named.choices(solution) == {"a": "y", "b": "x"}
    assert (solution.objective, solution.bytes, solution.used) == (4.0, 10, (5,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": -1}, "budget: found -1"),
        ({"budget": 1.5}, "budget: found 1.5"),
        ({"budget": True}, "budget: found True"),
        ({"groups": []}, "groups"),
        ({"groups": {}}, "groups"),
        ({"groups": [{"name": "a", "options": []}]}, "group 'a': found no option"),
        ({"groups": [{"name": "a"}]}, "group 'a'.*options"),
        ({"groups": [{"name": 7, "options": [option("x", 1, 1)]}]}, "group 0"),
        ({"groups": [{"options": [option("x", 1, 1), option("x", 2, 0)]}]}, "name 'x' twice"),
        ({"groups": [{"name": "a", "options": [option("x", -1, 1)]}]}, "option 'x'.*bytes = -1"),
        ({"groups": [{"name": "a", "options": [option("x", 1.0, 1)]}]}, "bytes = 1.0"),
        ({"groups": [{"name": "a", "options": [option("x", 1, -0.1)]}]}, "cost = -0.1"),
        ({"groups": [{"name": "a", "options": [option("x", 1, "1")]}]}, "cost = '1'"),
        ({"groups": [{"name": "a", "options": [option("x", 1, float("nan"))]}]}, "cost = nan"),
        ({"groups": [{"name": "a", "options": [option("x", 1, float("inf"))]}]}, "cost = inf"),
        ({"groups": [{"name": "a", "options": [option("x", 1, 10**400)]}]}, "cost = 1000"),
        ({"groups": [{"name": "a", "options": [option("x", 2**60, 1)]}]}, "bytes = 1152"),
        ({"rows": [{"limit": 1, "weights": [[1, 2]]}]}, "weights of 1 groups"),
        ({"rows": [{"limit": 1, "weights": [[1, 2], [3]]}]}, "2 weights"),
        ({"rows": [{"limit": 1, "weights": [[1, 2], [3, -1]]}]}, "found -1"),
        ({"rows": [{"weights": [[1, 2], [3, 1]]}]}, "limit: found None"),
        ({"rows": 3}, "rows: found 3"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        read(document(**changes))
    assert caught.value.exit_code == 2


def test_duplicate_groups_and_broken_documents_are_refused() -> None:
    twice = document(groups=[document()["groups"][0]] * 2, rows=[])
    with pytest.raises(InvalidRequestError, match="group name 'a' twice"):
        read(twice)
    for data in (b"", b"[]", b"{", b"null", b"[" * 100_000, b"\xff\xfe"):
        with pytest.raises(InvalidRequestError):
            read_problem_json(data)


def test_ten_million_options_are_refused_with_the_limit() -> None:
    options = ",".join(["0"] * 10_000_001)
    text = f'{{"budget": 1, "groups": [{{"name": "a", "options": [{options}]}}]}}'
    with pytest.raises(InvalidRequestError, match="at most 10000000 options"):
        read_problem_json(text.encode())


def test_rows_that_contradict_name_the_row() -> None:
    alone = document(rows=[{"name": "speed", "limit": 3, "weights": [[1, 2], [3, 8]]}])
    together = document(budget=7, rows=[{"name": "speed", "limit": 3, "weights": [[9, 0], [1, 3]]}])
    for value, least in ((alone, 4), (together, 10)):
        named = read(value)
        with pytest.raises(InfeasibleBudgetError) as caught:
            solve_problem(named.problem, named.budget)
        assert caught.value.exit_code == 3
        assert "speed" in str(caught.value)
        assert caught.value.minimum_bytes == least


def arrays(**values: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def test_arrays_give_the_same_answer_as_json() -> None:
    plain = read(document())
    matrix = read_problem(
        arrays(
            budget=10,
            bytes=np.array([[3, 6], [4, 8]]),
            costs=np.array([[2.0, 1.0], [3.0, 0.5]]),
            row_limits=np.array([9]),
            row_weights=np.array([[1, 2, 3, 8]]),
            group_names=np.array(["a", "b"]),
            option_names=np.array(["x", "y", "x", "y"]),
        )
    )
    flat = read_problem(
        arrays(
            budget=np.int64(10),
            bytes=np.array([3, 6, 4, 8]),
            costs=np.array([2.0, 1.0, 3.0, 0.5]),
            offsets=np.array([0, 2, 4]),
        )
    )
    answers = [solve_problem(named.problem, named.budget) for named in (plain, matrix, flat)]
    assert [answer.objective for answer in answers] == [4.0, 4.0, 4.0]
    assert matrix.choices(answers[1]) == plain.choices(answers[0])
    assert flat.choices(answers[2]) == {"0": "1", "1": "0"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bytes": np.array([[1, 2]]), "costs": np.array([[1.0, 2.0]])}, "array 'budget'"),
        ({"budget": 1, "costs": np.array([[1.0]])}, "array 'bytes'"),
        ({"budget": 1, "bytes": np.array([[1.5]]), "costs": np.array([[1.0]])}, "integers"),
        ({"budget": 1, "bytes": np.array([[1, 2]]), "costs": np.array([[1.0]])}, "costs"),
        ({"budget": 1, "bytes": np.array([1, 2]), "costs": np.array([1.0, 2.0])}, "offsets"),
        (
            {"budget": 1, "bytes": np.array([[1]]), "costs": np.array([[np.nan]])},
            "costs, option 0",
        ),
        (
            {
                "budget": 1,
                "bytes": np.array([1, 2]),
                "costs": np.array([1.0, 2.0]),
                "offsets": np.array([0, 0, 2]),
            },
            "group 0",
        ),
        (
            {"budget": 1, "bytes": np.array([{}]), "costs": np.array([[1.0]])},
            "plain arrays",
        ),
    ],
)
def test_what_is_wrong_in_arrays_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read_problem(arrays(**values))


@settings(max_examples=50, deadline=None)
@given(groups_of_options(), st.floats(0, 1))
def test_a_round_trip_through_json_keeps_the_optimum(
    groups: list[Options], fraction: float
) -> None:
    least = sum(min(b for b, _ in group) for group in groups)
    most = sum(max(b for b, _ in group) for group in groups)
    budget = least + int(fraction * (most - least))
    value = {
        "budget": budget,
        "groups": [{"options": [{"bytes": b, "cost": c} for b, c in group]} for group in groups],
    }
    jsonschema.validate(value, SCHEMA)
    named = read(value)
    solution = solve_problem(named.problem, named.budget)
    assert solution.objective == pytest.approx(float(brute_force(groups, budget)), rel=1e-12)
