"""Runs a heavy task in a child process and draws its events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from bitbudget.app.child.process import ChildProcess
from bitbudget.app.cli.extras import require_extra
from bitbudget.app.cli.failures import ChildFailedError
from bitbudget.app.cli.output import INTERRUPTED, stderr
from bitbudget.app.cli.progress import ProgressView

if TYPE_CHECKING:
    from bitbudget.app.contract.events import Event
    from bitbudget.app.contract.messages import Report
    from bitbudget.app.contract.tasks import Task

__all__ = ["home", "measurement_repositories", "run_quickly", "run_task", "run_with_progress"]

Result = TypeVar("Result", bound="Report")


def home() -> str:
    """Return the folder for state and caches, BITBUDGET_HOME."""
    from bitbudget.app.server.settings import Settings

    return str(Settings().home_folder)


def measurement_repositories() -> tuple[str, ...]:
    """Return where to look for measurements, BITBUDGET_MEASUREMENT_REPOSITORIES."""
    from bitbudget.app.server.settings import Settings

    return Settings().measurement_sources


def run_quickly(task: Callable[[], Task], result: Callable[[], type[Result]]) -> Result:
    """Run a task that needs no MLX, as `run_with_progress` does, with nothing waited for.

    `task` is called while the child starts, `result` while it works: what they import costs no
    time.
    """
    with ProgressView(stderr()) as view, ChildProcess("--without-blas") as child:
        child.give(task())
        return _follow(child, result(), view)


def run_with_progress(
    task: Task,
    result: type[Result],
    command: str,
    listener: Callable[[Event], None] = lambda _: None,
) -> Result:
    """Run `task` with its progress on standard error and return its result.

    `listener` is told every event, too.
    Raises MissingExtraError without the worker extra, ChildFailedError when the task fails.
    """
    require_extra("worker", command)
    try:
        with ProgressView(stderr()) as view:

            def tell(event: Event) -> None:
                view(event)
                listener(event)

            return run_task(task, result, tell)
    except KeyboardInterrupt:
        _say_kept(task)
        raise typer.Exit(INTERRUPTED) from None


def _say_kept(task: Task) -> None:
    """Say what an interrupted command leaves: nothing that is finished is done twice."""
    console = stderr()
    console.print(
        f"\nStopped. What was finished is kept in {task.home};"
        " the same command goes on from there.",
        markup=False,
        soft_wrap=True,
    )
    output = getattr(task, "output", None)
    if output and Path(output, "manifest.json").is_file():
        console.print(f"The finished checkpoint is {output}", markup=False, soft_wrap=True)


def run_task(task: Task, result: type[Result], listener: Callable[[Event], None]) -> Result:
    """Run `task` in a child process, tell every event and return its result, a `result`.

    Raises ChildFailedError when it fails.
    """
    with ChildProcess() as child:
        child.give(task)
        return _follow(child, result, listener)


def _follow(child: ChildProcess, result: type[Result], listener: Callable[[Event], None]) -> Result:
    from bitbudget.app.contract.problems import Problem

    problem = Problem.about("child-died", "the child process answered another question")
    for event in child.events():
        listener(event)
        if event.kind == "failed":
            problem = event.problem
        elif event.kind == "finished" and isinstance(event.result, result):
            return event.result
    raise ChildFailedError(problem)
