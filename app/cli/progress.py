"""A child's events drawn on the terminal: step, amount, speed, time left, current module."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from bitbudget.app.cli.revisions import revision_words
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.sizes import format_size

if TYPE_CHECKING:
    from bitbudget.app.contract.events import Event, Progressed
    from bitbudget.app.contract.steps import Step

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
        return Text(task.fields["amount"])


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["speed"], style="cyan")


class ProgressView:
    """Draws events live on a terminal, and one line per step where there is none.

    On a terminal one bar stands for the whole job and one for each step; none runs backwards.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=24),
            _Amount(),
            _Speed(),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
        )
        self._step = ""
        self._began = 0.0
        self._last: Progressed | None = None
        self._whole: TaskID | None = None
        self._bar: TaskID | None = None
        self._part = _Part("", 0, 0.0)
        self._tenths = 0

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
        self._close_step(ended=kind is None)
        if self._console.is_terminal:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Draw one event."""
        match event.kind:
            case "started" | "artifact":
                self._enter_step(event.step)
            case "progress":
                self._enter_step(event.step)
                if event.job_fraction:
                    self._tell_whole(event)
                self._advance(event)
            case "answered":
                told = f"{revision_words(event.answer)}; manifest: {event.path}"
                self._console.print(Text(told), soft_wrap=True)
            case "log":
                note = Text.assemble(("note: ", "yellow"), event.detail)
                self._console.print(note, soft_wrap=True)

    def _enter_step(self, step: Step) -> None:
        if step.value != self._step:
            self._close_step(ended=True)
            self._open_step(step.value)

    def _new_bar(self, name: str) -> TaskID | None:
        if not self._console.is_terminal:
            return None
        return self._bars.add_task(name, total=1.0, amount="", speed="", left="", detail="")

    def _open_step(self, step: str) -> None:
        self._step, self._began, self._last = step, time.monotonic(), None
        self._bar = self._new_bar(step)

    def _tell_whole(self, event: Progressed) -> None:
        """Show the whole job: a bar on a terminal, else a line for each tenth."""
        fraction = event.job_fraction
        left = ""
        if event.seconds_left is not None and fraction < 1:
            left = f"about {duration_words(event.seconds_left)} left"
        if self._whole is None:
            self._whole = self._new_bar("in all")
        if self._whole is not None:
            self._bars.update(self._whole, completed=fraction, amount=f"{fraction:.0%}", left=left)
        elif int(10 * fraction) > self._tenths:
            self._tenths = int(10 * fraction)
            self._console.print(f"{'in all':<11} {fraction:7.0%}    {left}".rstrip())

    def _advance(self, event: Progressed) -> None:
        self._last = event
        if self._bar is None:
            return
        now = time.monotonic()
        if self._part.unit != event.unit or event.done < self._part.done:
            self._part = _Part(event.unit, event.done, now)
        self._bars.update(
            self._bar,
            completed=event.step_fraction,
            amount=amount(event.done, event.total, event.unit),
            speed=self._part.speed(event.done, now),
            detail=event.detail,
        )

    def _close_step(self, *, ended: bool) -> None:
        if not self._step or not ended:
            return
        if self._bar is None:
            self._console.print(self._line(), soft_wrap=True)
        else:
            self._bars.update(self._bar, completed=1.0, detail="")
        self._step = ""

    def _line(self) -> str:
        last = self._last
        seconds = time.monotonic() - self._began
        if last is not None:
            seconds = max(seconds, last.seconds)
        done = _size(last.done) if last is not None and last.unit == "bytes" else ""
        return f"{self._step:<11} {seconds:7.1f} s  {done}".rstrip()


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a part of a step began: it counts one unit from `done` on."""

    unit: str
    done: int
    began: float

    def speed(self, done: int, now: float) -> str:
        """Return how many a second, "" while nobody can tell."""
        speed = (done - self.done) / max(now - self.began, 1e-9)
        if speed < 1:
            return ""
        return (
            f"{format_size(int(speed))}/s"
            if self.unit == "bytes"
            else f"{speed:,.0f} {self.unit}/s"
        )
