"""Runs a task in a child process with a progress bar of the caller's, and errors of one tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import ValidationError

from bitbudget.app.cli.child import run_task
from bitbudget.app.cli.extras import require_extra
from bitbudget.app.cli.failures import refusal_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bitbudget.app.contract.events import Event
    from bitbudget.app.contract.messages import Report
    from bitbudget.app.contract.tasks import Task

__all__ = ["Bar", "Progress", "html_table", "one_error_tree", "run"]

Result = TypeVar("Result", bound="Report")


class Bar(Protocol):
    """What a progress bar of tqdm offers, as far as it is used."""

    def update(self, n: float = 1) -> Any:
        """Advance by `n`."""

    def set_description(self, desc: str) -> Any:
        """Say what is being done."""

    def close(self) -> Any:
        """End the bar."""


Progress = Callable[..., Bar]
"""Makes a bar when called with `total` and `unit`, as `tqdm.auto.tqdm` does."""


def run(task: Task, result: type[Result], what: str, progress: Progress | None) -> Result:
    """Run `task` in a child process and return its result, with whole percents on the bar.

    Raises MissingExtraError without the worker extra, ChildFailedError when the task fails.
    """
    require_extra("worker", what)
    if progress is None:
        return run_task(task, result, lambda _: None)
    bar = progress(total=100, unit="%")
    try:
        return run_task(task, result, _Listener(bar))
    finally:
        bar.close()


class _Listener:
    """Moves a bar by the job fraction of a child's events."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._percent = 0

    def __call__(self, event: Event) -> None:
        if event.kind == "finished":
            self._advance(100)
        elif event.kind in ("started", "progress"):
            self._bar.set_description(event.step.value)
            self._advance(int(100 * event.job_fraction))

    def _advance(self, percent: int) -> None:
        if percent > self._percent:
            self._bar.update(percent - self._percent)
            self._percent = percent


@contextmanager
def one_error_tree() -> Iterator[None]:
    """Turn what pydantic refuses within the block into an InvalidRequestError."""
    try:
        yield
    except ValidationError as error:
        raise refusal_of(error, remedy="see docs/notebook.md") from error


def html_table(rows: Mapping[str, object]) -> str:
    """Return names and values as an HTML table, every text escaped."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"
