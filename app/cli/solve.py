"""`bitbudget solve`: any multiple-choice knapsack, solved with a proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.options import Json
from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["solve"]


def solve(
    problem: Annotated[
        Path, typer.Argument(metavar="PROBLEM", help="A .json or .npz file (docs/solve.md).")
    ],
    *,
    time_limit: Annotated[
        float, typer.Option("--time-limit", help="Seconds after which the best choice is given.")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Choose one option per group at least cost within a budget, and prove how good that is."""
    document = solve_file(problem, time_limit)
    say(document, as_json=as_json, render=lambda console: _draw(console, document))


def solve_file(file: Path, time_limit_seconds: float) -> JsonObject:
    """Return the answer to the problem in `file`; `seconds` leaves out reading it."""
    import time

    from bitbudget.app.core.mckp import Limits, solve_problem
    from bitbudget.app.core.problem_arrays import read_problem

    named = read_problem(_read(file))
    if named.problem.rows:
        import bitbudget.app.core.mckp.rows  # noqa: F401 - loading OR-Tools is not part of `seconds`
    started = time.perf_counter()
    ends_at = started + time_limit_seconds
    limits = Limits(
        is_over=lambda: time.perf_counter() > ends_at,
        seconds_left=lambda: max(0.0, ends_at - time.perf_counter()),
    )
    solution = solve_problem(named.problem, named.budget, limits)
    seconds = time.perf_counter() - started
    return {
        "objective": solution.objective,
        "bound": solution.bound,
        "gap": solution.gap,
        "status": solution.status.value,
        "stopped_by": solution.stopped_by,
        "solver": solution.solver,
        "seconds": seconds,
        "bytes": solution.bytes,
        "budget": named.budget,
        "price_per_byte": solution.price,
        "rows": {
            row.name: {"used": used, "limit": row.limit}
            for row, used in zip(named.problem.rows, solution.used, strict=True)
        },
        "choices": named.choices(solution),
    }


def _read(file: Path) -> bytes:
    from bitbudget.app.core.errors import InvalidRequestError
    from bitbudget.app.core.problem import MAX_PROBLEM_BYTES

    try:
        size = file.stat().st_size
        if size <= MAX_PROBLEM_BYTES:
            return file.read_bytes()
        found = f"{size} bytes"
    except OSError as error:
        found = error.strerror or str(error)
    raise InvalidRequestError(
        where=str(file),
        found=found,
        expected=f"a readable file of at most {MAX_PROBLEM_BYTES} bytes",
        remedy="check the path",
    )


def _draw(console: Console, document: JsonObject) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name in ("status", "objective", "bound", "gap", "bytes", "budget", "seconds"):
        table.add_row(name, f"{document[name]}")
    console.print(table)
    console.print()
    choices = Table("group", "option")
    for group, option in document["choices"].items():
        choices.add_row(group, option)
    console.print(choices)
