"""One task on standard input, events on standard output: what the child process does."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from bitbudget.app.contract.events import Event, Failed, Finished, Problem, TaskResult
from bitbudget.app.contract.home import Folder
from bitbudget.app.contract.tasks import FitTask, ImportTask, Task
from bitbudget.app.core.errors import NO_ROOM, BitbudgetError, InvalidRequestError
from bitbudget.app.core.wording import expected_words
from bitbudget.distribution import install_hint
from bitbudget.workers.cluster.parent_watch import end_with_parent
from bitbudget.workers.files.limits import limit_reading

__all__ = ["answer"]

_MLX: Final = ("mlx", "mlx_lm")
_TASK: Final[TypeAdapter[Task]] = TypeAdapter(Task)


def answer() -> int:
    """Run the task on standard input; return the exit code of the command line."""
    end_with_parent()
    emit = _take_standard_output()
    run = _runner()
    home = Path(tempfile.gettempdir())
    try:
        task = _read_task()
        home = Path(task.home)
        if isinstance(task, FitTask | ImportTask):
            limit_reading()
        emit(Finished(result=run(task, emit)))
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001, the last line of defence: every end is an event
        problem = problem_of(error, home)
        emit(Failed(problem=problem))
        return problem.exit_code
    return 0


def _runner() -> Callable[[Task, Callable[[Event], None]], TaskResult]:
    """Return what runs a task; its imports are done before the task is there."""
    if all(find_spec(name) is not None for name in _MLX):
        from bitbudget.workers.models.library import defer_package  # noqa: PLC0415, MLX
        from bitbudget.workers.pipeline.tasks import run_task  # noqa: PLC0415, MLX

        defer_package()
        return run_task
    from bitbudget.workers.outline.fit import fit_by_names  # noqa: PLC0415, with no MLX alone

    def fit_alone(task: Task, emit: Callable[[Event], None]) -> TaskResult:
        if isinstance(task, FitTask):
            return fit_by_names(task, emit)
        raise InvalidRequestError(
            where="task",
            found=task.kind,
            expected="fit, the only task that needs no MLX",
            remedy=install_hint("worker"),
        )

    return fit_alone


def _take_standard_output() -> Callable[[Event], None]:
    """Keep standard output for events and let everything else that prints reach standard error."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(event: Event) -> None:
        events.write(event.model_dump_json() + "\n")
        events.flush()

    return emit


def _read_task() -> Task:
    try:
        return _TASK.validate_json(sys.stdin.buffer.read())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequestError(
            where=f"task: {'.'.join(str(part) for part in first['loc'])}",
            found=repr(first.get("input"))[:80],
            expected=expected_words(first["msg"]),
            remedy="send a task of bitbudget.app.contract.tasks",
        ) from error


def problem_of(error: Exception, home: Path) -> Problem:
    """Return the problem that `error` is to a user; unforeseen ones leave their trace in `home`."""
    if isinstance(error, BitbudgetError):
        return Problem.about(
            error.slug(),
            str(error),
            status=error.status,
            fields=error.fields,
            exit_code=error.exit_code,
        )
    if isinstance(error, MemoryError):
        return Problem.about(
            "too-large",
            "there is not the memory that this takes: a configuration that does not belong to the"
            " weights, or a machine that is too small",
            status=422,
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return Problem.about(
            "disk-full",
            f"{error}; free some room, or keep less there with --disk-limit",
            status=507,
        )
    if isinstance(error, OSError | sqlite3.OperationalError):
        return Problem.about("machine-trouble", f"{error}; look at the disk and its permissions")
    return Problem.about(
        "internal",
        f"{type(error).__name__}: {error}; a defect of ours: please report it with "
        f"{_keep_trace(error, home)}",
        title="Internal error",
    )


def _keep_trace(error: Exception, home: Path) -> Path:
    file = Folder.TRACES.under(home) / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:  # a full disk may be the very error
        traceback.print_exception(error, file=sys.stderr)
    return file
