"""The real child process, which can be killed at an event."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bitbudget.app.contract.events import EVENT, Event, Problem
from bitbudget.app.contract.steps import Step

__all__ = ["ChildRun", "at_step", "run_child"]

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ChildRun:
    """What a child said before it ended."""

    events: list[Event]
    status: int

    @property
    def last(self) -> Event:
        return self.events[-1]

    @property
    def result(self) -> dict[str, Any]:
        assert self.last.kind == "finished", self.last
        return self.last.result.model_dump(mode="json")

    @property
    def problem(self) -> Problem:
        assert self.last.kind == "failed", self.last
        return self.last.problem

    @property
    def steps(self) -> list[Step]:
        return [e.step for e in self.events if e.kind == "started"]


def run_child(task: BaseModel, kill_at: Callable[[Event], bool] | None = None) -> ChildRun:
    """Run `task`; SIGKILL as soon as `kill_at` is true of an event."""
    events = []
    with subprocess.Popen(
        [sys.executable, "-m", "bitbudget.workers.child"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(task.model_dump_json())
        child.stdin.close()
        for line in child.stdout:
            events.append(EVENT.validate_json(line))
            if kill_at is not None and kill_at(events[-1]):
                child.kill()
    return ChildRun(events, child.returncode)


def at_step(step: Step) -> Callable[[Event], bool]:
    """True from the moment that `step` begins."""
    return lambda event: event.kind == "started" and event.step is step
