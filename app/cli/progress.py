"""A child's events drawn on the terminal: stage, amount, speed, time left, current module."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from bitbudget.app.core.sizes import format_size

if TYPE_CHECKING:
    from bitbudget.app.contract.events import Event

__all__ = ["ProgressView", "amount"]


def amount(done: float, total: float, unit: str) -> str:
    """Return `3.1 of 11.0 MiB` in the words of the unit."""
    if unit != "bytes":
        return f"{done:,.0f} of {total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"
    return f"{format_size(int(done))} of {format_size(int(total))}" if total else _size(done)


def _size(nbytes: float) -> str:
    return format_size(int(nbytes)) if nbytes else ""


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(amount(task.completed, task.total or 0, task.fields["unit"]))


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed or speed < 1:
            return Text("")
        if task.fields["unit"] == "bytes":
            return Text(f"{speed / 1e9:.3f} GB/s", style="cyan")
        return Text(f"{speed:,.0f} {task.fields['unit']}/s", style="cyan")


class ProgressView:
    """Draws events live on a terminal, and one line per stage where there is none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=24),
            _Amount(),
            _Speed(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
        )
        self._stage = ""
        self._began = 0.0
        self._last: Event | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_stage(ended=kind is None)
        if self._console.is_terminal:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Draw one event."""
        if event.stage is not None and event.stage.value != self._stage:
            self._close_stage(ended=True)
            self._open_stage(event.stage.value)
        if event.kind == "progress":
            self._advance(event)
        elif event.kind == "log" and event.detail:
            self._console.print(f"[yellow]note:[/] {event.detail}", soft_wrap=True)

    def _open_stage(self, stage: str) -> None:
        self._stage, self._began, self._last = stage, time.monotonic(), None
        if self._console.is_terminal:
            self._bars.add_task(stage, total=None, unit="bytes", detail="")

    def _advance(self, event: Event) -> None:
        self._last = event
        if self._console.is_terminal and self._bars.task_ids:
            self._bars.update(
                self._bars.task_ids[-1],
                total=event.total or None,
                completed=event.done,
                unit=event.unit,
                detail=event.detail,
            )

    def _close_stage(self, *, ended: bool) -> None:
        if not self._stage or not ended:
            return
        if self._console.is_terminal:
            bar = self._bars.tasks[-1]
            total = bar.total or bar.completed or 1
            self._bars.update(bar.id, total=total, completed=total, detail="")
        else:
            self._console.print(self._line(), soft_wrap=True)
        self._stage = ""

    def _line(self) -> str:
        last = self._last
        seconds = time.monotonic() - self._began
        if last is not None:
            seconds = max(seconds, last.seconds)
        done = _size(last.done) if last is not None and last.unit == "bytes" else ""
        return f"{self._stage:<10} {seconds:7.1f} s  {done}".rstrip()
