"""How the child tells what went wrong."""

from __future__ import annotations

from pathlib import Path

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.workers.child.task import problem_of


def test_a_defect_leaves_its_trace_where_the_message_says(tmp_path: Path) -> None:
    try:
        raise KeyError("lost")  # noqa: TRY301 - any error that we do not foresee
    except KeyError as error:
        problem = problem_of(error, tmp_path)
    (trace,) = (tmp_path / "traces").iterdir()
    assert problem.detail.endswith(str(trace))
    assert "test_a_defect_leaves_its_trace" in trace.read_text()


def test_an_error_of_the_user_leaves_none(tmp_path: Path) -> None:
    error = InvalidRequestError(where="x", found="y", expected="z", remedy="w")
    assert problem_of(error, tmp_path).exit_code == error.exit_code
    assert not (tmp_path / "traces").exists()
