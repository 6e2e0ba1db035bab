"""Runs a heavy task in a child process and draws its events."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from bitbudget.app.cli.extras import require_extra
from bitbudget.app.cli.failures import ChildFailedError
from bitbudget.app.cli.output import stderr
from bitbudget.app.cli.progress import ProgressView

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bitbudget.app.contract.events import Event, Problem

__all__ = ["home", "run_quickly", "run_task", "run_with_progress"]

_TAIL_CHARACTERS = 2000
_END_SECONDS = 10


def home() -> str:
    """Return the folder for state and caches, BITBUDGET_HOME."""
    from bitbudget.app.server.settings import Settings

    return str(Settings().home_folder)


def run_quickly(
    task: Callable[[], BaseModel], meanwhile: Callable[[], None], command: str
) -> dict[str, Any]:
    """Run a task that multiplies nothing, as `run_with_progress` does, with nothing waited for.

    `task` is called while the child starts, `meanwhile` while it works: what they import costs no
    time.
    """
    require_extra("worker", command)
    with ProgressView(stderr()) as view:
        return _run(task, view, meanwhile, "--without-blas")


def run_with_progress(task: BaseModel, command: str) -> dict[str, Any]:
    """Run `task` with its progress on standard error and return its result.

    Raises MissingExtraError without the worker extra, ChildFailedError when the task fails.
    """
    require_extra("worker", command)
    with ProgressView(stderr()) as view:
        return run_task(task, view)


def run_task(task: BaseModel, listener: Callable[[Event], None]) -> dict[str, Any]:
    """Run `task` in `python -m bitbudget.workers.child`, tell every event and return the result."""
    return _run(lambda: task, listener, lambda: None)


def _run(
    task: Callable[[], BaseModel],
    listener: Callable[[Event], None],
    meanwhile: Callable[[], None],
    *options: str,
) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as noise, _child(noise, *options) as child:
        _give(child, task())
        meanwhile()
        last = None
        for last in _events(child):
            listener(last)
        child.wait()
        if last is not None and last.kind == "finished":
            return last.result or {}
        if last is not None and last.problem is not None:
            raise ChildFailedError(_document(last.problem))
        raise ChildFailedError(_document(_crash(child.returncode, noise)))


@contextmanager
def _child(noise: IO[str], *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bitbudget.workers.child", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, encoding="utf-8"
    ) as child:
        try:
            yield child
        finally:
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def _give(child: subprocess.Popen[str], task: BaseModel) -> None:
    if child.stdin is None:
        return
    try:
        child.stdin.write(task.model_dump_json() + "\n")
        child.stdin.close()
    except BrokenPipeError:
        return  # it died at once; its exit status tells


def _events(child: subprocess.Popen[str]) -> Iterator[Event]:
    from pydantic import ValidationError

    from bitbudget.app.contract.events import Event

    for line in child.stdout or ():
        try:
            yield Event.model_validate_json(line)
        except ValidationError:
            stderr().print(line.rstrip(), markup=False, soft_wrap=True)


def _crash(status: int, noise: IO[str]) -> Problem:
    from bitbudget.app.contract.events import Problem

    noise.seek(0)
    tail = noise.read()[-_TAIL_CHARACTERS:].strip()
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return Problem(
        type="urn:bitbudget:problem:child-died",
        title="Child died",
        status=500,
        detail=f"the child process ended {how} without an answer; it wrote: {tail or 'nothing'}",
    )


def _document(problem: Problem) -> dict[str, Any]:
    document = problem.model_dump(exclude={"fields"})
    return {**problem.fields, **document}
